"""Arms in processes of their own that take turns at the same work."""
