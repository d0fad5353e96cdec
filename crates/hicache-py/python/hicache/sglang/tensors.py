"""The tensor methods: SGLang without ``interface_v1``, and releases that know nothing else."""

from __future__ import annotations

import time
from typing import Any, List, Optional

from .guard import misses

_FLAT = "kv.flat"


def _nothing(keys: Any = (), *_: Any, **__: Any) -> list:
    return [None] * len(keys) if isinstance(keys, (list, tuple)) else []


class TensorMethods:
    """``get``, ``set`` and their batches. A part of ``HiCacheRust``."""

    @misses(lambda *_, **__: None)
    def get(self: Any, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Loads a page into the tensor ``target_location``, which it answers; ``None`` for a miss."""
        return self._batch_get([key], [target_location], target_sizes)[0]

    @misses(_nothing)
    def batch_get(self: Any, keys: List[str], target_locations: Any = None, target_sizes: Any = None) -> List[Any]:
        """Loads pages into tensors; answers each, ``None`` for a miss."""
        return self._batch_get(keys, target_locations, target_sizes)

    @misses(lambda *_, **__: False)
    def set(
        self: Any, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None
    ) -> bool:
        """Stores a page out of the tensor ``value``."""
        return self._batch_set([key], [value if value is not None else target_location], target_sizes)

    @misses(lambda *_, **__: False)
    def batch_set(
        self: Any, keys: List[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Stores pages out of tensors; whether all are there."""
        return self._batch_set(keys, values if values is not None else target_locations, target_sizes)

    @misses(lambda *_, **__: False)
    def exists(self: Any, key: str) -> bool:
        """Whether a page is there."""
        return self._opened().exists(self._asked, [key])[0]

    def _batch_get(self: Any, keys: List[str], tensors: Any, sizes: Any) -> List[Optional[Any]]:
        done = self._move_tensors(True, keys, tensors, sizes)
        return [tensor if good else None for tensor, good in zip(tensors, done)]

    def _batch_set(self: Any, keys: List[str], tensors: Any, sizes: Any) -> bool:
        if not self._writer:
            self._counters.add(skipped_pages=len(keys))
            return True
        return all(self._move_tensors(False, keys, tensors, sizes))

    def _move_tensors(self: Any, loads: bool, keys: List[str], tensors: Any, sizes: Any) -> List[bool]:
        self._opened()
        tensors = list(tensors) if tensors is not None else []
        if len(tensors) != len(keys):
            raise ValueError(f"{len(keys)} keys and {len(tensors)} tensors; each key needs one")
        begun = time.perf_counter()
        batch = self._arrays.move(loads, _FLAT, keys, tensors)
        self._note(loads, batch, time.perf_counter() - begun)
        return batch.done
