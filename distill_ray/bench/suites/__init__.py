"""The benchmarks: what each of them compares."""
