"""A trained model as a folder to share: weights, recipe, a card that says what it is, and graphs for other runtimes."""
