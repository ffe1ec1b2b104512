"""Runs arms in processes of their own, in turns at the same work."""
