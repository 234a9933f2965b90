"""Benchmarks: `python -m benchmarks.<name>`; a readable table, then one JSON object as the last line."""
