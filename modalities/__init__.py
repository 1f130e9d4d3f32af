"""Built-in modality kinds, one a file; found through entry points."""
