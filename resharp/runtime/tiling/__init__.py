"""Which tiles an image is cut into, and how bands of them are run."""
