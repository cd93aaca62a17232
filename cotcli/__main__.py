"""`python -m cotcli`, the same as `cotcli`."""

from __future__ import annotations

import sys

from cotcli.cli import main

if __name__ == "__main__":
    sys.exit(main())
