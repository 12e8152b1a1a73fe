"""Experiments: the paper's effect in miniature (``digits``) and the full ImageNet recipe (``imagenet``)."""
