"""Hostile input for the real command line, seeded and repeatable: ``python -m tests.fuzz``.

A case is a kind, a seed and a number. Its input is mutated from small files of that kind, and a
forked child restores, imports or loads it with bounds on its time and memory. The verdict compares
what the child left with what the documentation promises of any input.
"""
