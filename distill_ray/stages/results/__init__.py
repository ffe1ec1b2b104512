"""What flows between stages: one typed file for each result. Imports no other room of `stages`."""
