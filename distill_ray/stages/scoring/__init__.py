"""Models scored on held-out questions and text by a pool of Ray actors."""
