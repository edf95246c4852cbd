"""Check of resharp on an NVIDIA GPU: ``python -m benchmarks.gpu OUT``.

``stages.py`` defines the stages; ``runner.py`` runs them and saves all their output. Both use only
the standard library, so they start immediately and work even if dependencies are broken. Each stage
is a process: tests, a resharp command, or a module of this package.
"""
