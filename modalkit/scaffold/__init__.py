"""Packages for plugin authors to start from."""
