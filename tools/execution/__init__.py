"""Where builders' tasks run, and how their shards are written."""
