"""Examples: train, explain, compare."""
