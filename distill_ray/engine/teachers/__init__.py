"""Where the teacher's outputs come from: one model, shards of it, an ensemble, or cached files."""
