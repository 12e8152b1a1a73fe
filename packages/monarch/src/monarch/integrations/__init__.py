"""Bridges to frameworks, each imported on use."""
