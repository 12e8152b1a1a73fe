"""The experiments of both papers in miniature, and recipes for the full ones."""
