"""Faults done to the real thing, by the hundred: what the product must survive, row by row of docs/faults.md."""
