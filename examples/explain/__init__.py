"""What convolutions do, in figures and numbers: `python -m examples.explain --help`."""
