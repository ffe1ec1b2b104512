"""The route up to `distill`, for `ray job submit -- python jobs/distill.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "distill")
main()
