"""LoLDU adapters."""
