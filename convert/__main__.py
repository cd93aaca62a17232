"""``python -m convert``: the command ``cotcli convert`` under the package's own name."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command; its exit code."""
    from cotcli.cli import main

    return main(["convert", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
