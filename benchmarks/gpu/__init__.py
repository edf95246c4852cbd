"""The check of the product on an NVIDIA GPU: ``python -m benchmarks.gpu OUT``.

``runner.py`` runs stages and loses nothing of what they write, ``stages.py`` says which there are.
Both use the standard library alone: they start at once, and survive whatever is broken. Each stage
is a process: a test, a command of resharp, or a module of this folder.
"""
