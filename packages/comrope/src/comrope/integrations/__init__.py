"""ComRoPE in the models of other libraries; each is imported only when one of its models arrives."""

from comrope.integrations._vit import fold_vit, patch_vit

__all__ = ["fold_vit", "patch_vit"]
