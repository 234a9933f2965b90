"""Orchestration only: an asset reads its config, calls one library function and returns a MaterializeResult with metadata."""
