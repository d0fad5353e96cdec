"""What the backend did, counted; and the figures that SGLang asks for."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Deque, Dict, List

from .._forks import renew_in_child

#: Figures that are kept until SGLang asks.
_KEPT = 1024


class Counters:
    """Counts since the backend was attached. All methods may be called from any thread."""

    def __init__(self) -> None:
        self.renew()
        renew_in_child(self)
        self._counts: Dict[str, int] = {
            "loaded_pages": 0,
            "loaded_bytes": 0,
            "stored_pages": 0,
            "stored_bytes": 0,
            "missed_pages": 0,
            "failed_pages": 0,
            "skipped_pages": 0,
            "failed_calls": 0,
            "asked_pages": 0,
            "present_pages": 0,
        }
        self._pages: Dict[str, Deque[int]] = {"loaded": deque(maxlen=_KEPT), "stored": deque(maxlen=_KEPT)}
        self._speeds: Dict[str, Deque[float]] = {"loaded": deque(maxlen=_KEPT), "stored": deque(maxlen=_KEPT)}

    def renew(self) -> None:
        """Makes the lock anew."""
        self._lock = threading.Lock()

    def add(self, **counts: int) -> None:
        """Adds to counts by name."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def moved(self, what: str, pages: int, moved_bytes: int, seconds: float) -> None:
        """Notes a batch that was ``loaded`` or ``stored``."""
        with self._lock:
            self._counts[f"{what}_pages"] += pages
            self._counts[f"{what}_bytes"] += moved_bytes
            if pages:
                self._pages[what].append(pages)
                self._speeds[what].append(moved_bytes / max(seconds, 1e-9) / 1e9)

    def counts(self) -> Dict[str, int]:
        """A copy of all counts."""
        with self._lock:
            return dict(self._counts)

    def take_metrics(self) -> Any:
        """SGLang's ``StorageMetrics`` of what was moved since the last call; ``None`` in releases without it."""
        metrics_type = _metrics_type()
        if metrics_type is None:
            return None
        metrics = metrics_type()
        with self._lock:
            fields: List[Any] = [
                ("prefetch_pgs", self._pages["loaded"]),
                ("backup_pgs", self._pages["stored"]),
                ("prefetch_bandwidth", self._speeds["loaded"]),
                ("backup_bandwidth", self._speeds["stored"]),
            ]
            for name, values in fields:
                getattr(metrics, name, []).extend(values)
                values.clear()
        return metrics


def _metrics_type() -> Any:
    for module in ("sglang.srt.observability.metrics_collector", "sglang.srt.metrics.collector"):
        try:
            return __import__(module, fromlist=["StorageMetrics"]).StorageMetrics
        except (ImportError, AttributeError):
            continue
    return None
