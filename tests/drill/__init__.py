"""Interrupted, shared, long and odd runs of the real command line: ``python -m tests.drill``.

Each drill prints one line with what it has tried, and fails with what it has found.
"""
