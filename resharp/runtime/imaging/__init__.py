"""Layouts of arrays, alpha and resizing."""
