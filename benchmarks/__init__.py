"""What nrfx costs and whether it keeps its word, measured: `python -m benchmarks`."""
