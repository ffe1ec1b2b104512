"""The route up to `rank`, for `ray job submit -- python jobs/rank.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "rank")
main()
