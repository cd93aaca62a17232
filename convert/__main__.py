"""`python -m convert`, the same as `cotcli convert`."""

from __future__ import annotations

import sys

from cotcli.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
