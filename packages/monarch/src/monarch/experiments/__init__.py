"""The paper's claims in miniature, and its recipes in full size."""
