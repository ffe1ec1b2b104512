"""The route up to `shard`, for `ray job submit -- python jobs/shard.py CONFIG`."""

import sys

from distill_ray.cli.main import main

sys.argv.insert(1, "shard")
main()
