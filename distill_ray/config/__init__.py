"""What a run is: frozen, fully checked sections. Imports neither torch nor ray."""

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.load import load_config
from distill_ray.config.run import RunConfig

__all__ = ["InputError", "Problem", "RunConfig", "load_config"]
