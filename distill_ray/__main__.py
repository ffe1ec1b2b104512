"""`python -m distill_ray`: the same as `distill-ray`."""

from distill_ray.cli.main import main

main()
