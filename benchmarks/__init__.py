"""Measurements behind every figure that the README claims: `python -m benchmarks [name] [--json]`."""
