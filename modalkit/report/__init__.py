"""Reports: one run as an HTML page, and several runs side by side."""
