"""Experiments: ``python -m rotrep.experiments.sanity`` and its neighbours."""
