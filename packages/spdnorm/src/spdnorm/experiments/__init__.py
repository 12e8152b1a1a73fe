"""Experiments: the effect in miniature (``nuisance``), digits (``digits``), and the recipes for published data (``full``)."""
