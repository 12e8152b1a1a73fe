"""Experiments: the claim in miniature (``s3``), the paper's word problems (``state_tracking``) and language model (``language_model``)."""
