"""The kernels, one file an algorithm; each file: device helpers, kernels forward before backward, launchers."""
