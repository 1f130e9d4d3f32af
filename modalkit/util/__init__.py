"""What every room may use: files, progress, text in columns, randomness, processes, signals, URLs."""
