"""Benchmarks. Run one with `python -m bench NAME`."""
