"""Command line entry point for ``python -m resharp``."""

from resharp.cli import main

if __name__ == "__main__":
    main(prog_name="resharp")
