"""Benchmarks, each a command: `python -m bench.<name>` from the repository's root."""
