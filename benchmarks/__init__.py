"""Measurements: each script asserts that results are right before it reports a figure."""
