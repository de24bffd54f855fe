"""The entry point of `gateway` and `python -m gateway`: a failure is one line on stderr and an exit code."""

import sys

from gateway.cli import run


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run())


if __name__ == "__main__":
    main()
