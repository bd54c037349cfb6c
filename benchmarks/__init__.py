"""Measurements of what nrfx costs, and checks of what it promises: `python -m benchmarks`."""
