"""Data sets in their published file formats; each reader is imported on use."""
