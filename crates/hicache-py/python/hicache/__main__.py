"""``python -m hicache``: the ``hicache`` command."""

from __future__ import annotations

import signal
import sys

from . import _native


def main() -> int:
    """Runs the command with the arguments of this process."""
    # Python only notes the signal, and looks when the command is over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _native.run_command(["hicache", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
