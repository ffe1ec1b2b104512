"""Benchmarks: arms take turns at the same work, in processes of their own. Imports no torch."""

from distill_ray.bench.suites.peers import Settings, loss, step, step_work

__all__ = ["Settings", "loss", "step", "step_work"]
