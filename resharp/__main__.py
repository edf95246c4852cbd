"""Command line entry point for ``python -m resharp``."""

import sys

if __name__ == "__main__":
    try:
        from resharp.cli import main
    except KeyboardInterrupt:  # the command line does not handle it yet
        sys.exit(130)
    main(prog_name="resharp")
