"""The tile plan of an image, and running it in bands."""
