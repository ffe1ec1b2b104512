"""The arms: functions that take turns in a benchmark, each in a process of its own."""
