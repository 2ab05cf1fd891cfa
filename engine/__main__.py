"""``python -m dataflare``: the same command line as the ``dataflare`` script."""

from __future__ import annotations

import sys

from dataflare.cli import main

if __name__ == "__main__":
    sys.exit(main())
