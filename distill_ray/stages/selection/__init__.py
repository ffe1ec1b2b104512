"""What the ranking is computed from: factors, estimates and adaptation gains."""
