"""What every rank needs, imported once for all of them."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import distill_ray.engine.job
import distill_ray.engine.loop  # noqa: F401
