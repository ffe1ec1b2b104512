"""What predicts a student: every teacher teaches to the end, and is compared."""
