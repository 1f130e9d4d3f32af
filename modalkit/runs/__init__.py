"""Run folders: whose they are, their log, their saved state, and finished runs opened again."""
