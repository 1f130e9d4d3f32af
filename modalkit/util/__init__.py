"""Helpers for every room: files, URLs, progress bars, text, random seeds, processes, signals."""
