"""The version of the package, as pyproject.toml has it; a file of its own, for what lies below `tritonconv`."""

__version__ = "0.1.0"
