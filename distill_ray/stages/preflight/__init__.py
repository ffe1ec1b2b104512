"""What is checked and planned before any work starts."""
