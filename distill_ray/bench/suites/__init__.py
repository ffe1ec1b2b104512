"""What each benchmark compares."""
