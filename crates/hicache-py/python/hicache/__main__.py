"""``python -m hicache``: the ``hicache`` command."""

from __future__ import annotations

import sys

from . import _native


def main() -> int:
    """Runs the command with the arguments of this process."""
    return _native.run_command(["hicache", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
