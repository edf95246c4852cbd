"""Training of the built-in model's network."""
