"""Measurements and checks on an NVIDIA GPU."""
