"""A run is killed at random moments; how much work each kill costs."""
