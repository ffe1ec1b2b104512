"""Cluster files: rendered from a run's plan, and checked before nodes are paid for."""
