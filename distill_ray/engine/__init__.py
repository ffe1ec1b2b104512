"""The training engine: an iterator of steps. Runs without Ray."""
