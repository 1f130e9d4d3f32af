"""Builders of the user's own tables, folders and arrays."""
