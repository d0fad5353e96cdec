"""What goes wrong, told once and not a thousand times."""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import Dict, List, Optional

from . import _native
from ._forks import renew_in_child

#: Seconds in which one cause is told once.
EVERY_S = 30.0
#: Causes that are remembered; the one that was told longest ago goes first.
MOST = 256
_CAUSE_CHARS = 60
#: Counts, addresses, hashes and offsets: what differs between two lines of one cause.
_CHANGING = re.compile(r"(0x)?[0-9a-f]*[0-9][0-9a-f]*")


def cause_of(text: str) -> str:
    """What texts about the same trouble have in common."""
    return _CHANGING.sub("#", text)[:_CAUSE_CHARS]


class Reports:
    """Log lines, of which each cause has one every ``EVERY_S`` seconds; the next says how many were left out."""

    def __init__(self, logger: logging.Logger, every_s: float = EVERY_S) -> None:
        self._logger = logger
        self._every_s = every_s
        self._told: Dict[str, List[float]] = {}  # cause: when it was told, how often it was left out since
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Makes the lock anew."""
        self._lock = threading.Lock()

    def tell(self, level: int, cause: str, text: str, logger: Optional[logging.Logger] = None) -> None:
        """Logs ``text`` unless ``cause`` was told a moment ago."""
        now = time.monotonic()
        with self._lock:
            told = self._told.get(cause)
            if told is not None and now - told[0] < self._every_s:
                told[1] += 1
                return
            left_out = int(told[1]) if told is not None else 0
            self._told.pop(cause, None)
            self._told[cause] = [now, 0]  # At the end: the first is the oldest.
            if len(self._told) > MOST:
                del self._told[next(iter(self._told))]
        if left_out:
            text = f"{text} ({left_out} more like this in between)"
        (logger or self._logger).log(level, "%s", text)

    def pass_on(self) -> None:
        """Logs what the native half has recorded on its own threads since the last call."""
        for level, target, text in _native.take_records():
            name = f"hicache.{target}"
            self.tell(level, f"{name} {cause_of(text)}", text, logging.getLogger(name))
