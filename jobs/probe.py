"""The route up to `probe`, for `ray job submit -- python jobs/probe.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "probe")
main()
