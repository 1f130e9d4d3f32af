"""Dataset builders, one a file; found through entry points."""
