"""Short distillations as parallel Ray Tune trials."""
