"""The experiments of the paper in small, behind the demonstration, and its recipes for the full data."""
