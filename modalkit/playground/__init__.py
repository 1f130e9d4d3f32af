"""A page in the browser on which a trained model is asked: what is known goes in, samples and posteriors come out."""
