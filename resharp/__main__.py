"""Command line entry point for ``python -m resharp``."""

import sys

if __name__ == "__main__":
    try:
        from resharp.cli import main
    except KeyboardInterrupt:  # before the command line handles it
        sys.exit(130)
    main(prog_name="resharp")
