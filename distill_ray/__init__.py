"""distill_ray: choose, schedule and distil language-model teachers for a domain, on Ray."""

__version__ = "0.2.0"
