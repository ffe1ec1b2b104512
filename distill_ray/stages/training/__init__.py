"""Trainings on Ray Train: start, checkpoints, resumption, failures."""
