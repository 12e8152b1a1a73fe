"""CorDA adapters."""
