"""Run folders: their files and the recipe that they belong to, metrics, saved state, and opening trained runs."""
