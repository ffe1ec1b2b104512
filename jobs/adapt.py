"""The route up to `adapt`, for `ray job submit -- python jobs/adapt.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "adapt")
main()
