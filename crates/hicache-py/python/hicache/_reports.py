"""What goes wrong, told once and not a thousand times."""

from __future__ import annotations

import logging
import threading
import time
from typing import Dict, List

from . import _native

#: Seconds in which one cause is told once.
EVERY_S = 30.0


class Reports:
    """Log lines, of which each cause has one every ``EVERY_S`` seconds; the next says how many were left out."""

    def __init__(self, logger: logging.Logger, every_s: float = EVERY_S) -> None:
        self._logger = logger
        self._every_s = every_s
        self._lock = threading.Lock()
        self._told: Dict[str, List[float]] = {}  # cause: when it was told, how often it was left out since

    def tell(self, level: int, cause: str, text: str) -> None:
        """Logs ``text`` unless ``cause`` was told a moment ago."""
        now = time.monotonic()
        with self._lock:
            told = self._told.get(cause)
            if told is not None and now - told[0] < self._every_s:
                told[1] += 1
                return
            left_out = int(told[1]) if told is not None else 0
            self._told[cause] = [now, 0]
        if left_out:
            text = f"{text} ({left_out} more like this in between)"
        self._logger.log(level, "%s", text)

    @staticmethod
    def pass_on() -> None:
        """Logs what the native half has recorded on its own threads since the last call."""
        for level, target, text in _native.take_records():
            logging.getLogger(f"hicache.{target}").log(level, "%s", text)
