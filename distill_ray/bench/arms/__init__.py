"""What takes turns in a benchmark. Each function runs in a process of its own."""
