"""Bridges to other frameworks, each imported only on use."""
