"""Runs as pages that a person reads: one run looked at from all sides, several side by side."""
