"""``python -m convert``: the command ``cotcli convert`` under the package's own name."""

from __future__ import annotations

import sys

from cotcli.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
