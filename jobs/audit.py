"""The route up to `audit`, for `ray job submit -- python jobs/audit.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "audit")
main()
