"""Comparison models that need the GPL-licensed extra. Each runs as a process of its own and is never imported by the platform."""
