"""`python -m distill_ray`: the same as `distill-ray`."""

from distill_ray.cli import main

main()
