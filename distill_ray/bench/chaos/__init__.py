"""Kills at random moments, and what each of them costs."""
