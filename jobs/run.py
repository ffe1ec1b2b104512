"""The whole route, for `ray job submit -- python jobs/run.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "run")
main()
