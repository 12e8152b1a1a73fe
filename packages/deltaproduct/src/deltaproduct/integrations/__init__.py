"""Bridges to other libraries; each is imported only on use: ``transformers`` (models), ``fla`` (kernels)."""
