"""The route up to `report`, for `ray job submit -- python jobs/report.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "report")
main()
