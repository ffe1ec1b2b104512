"""Where a teacher lives: in the worker, in a pool of actors, or in cached targets."""
