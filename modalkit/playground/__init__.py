"""A page in the browser for exploring a trained model: enter known values, see predictions, samples and posteriors."""
