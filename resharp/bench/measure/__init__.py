"""Measurements: paired timing, CPU contention, peak memory and matrix rates."""
