"""The route up to `evaluate`, for `ray job submit -- python jobs/evaluate.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "evaluate")
main()
