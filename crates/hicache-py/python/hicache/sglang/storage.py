"""``HiCacheRust``: the storage backend that SGLang loads by name."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Dict, List, Optional

from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

from .. import _native
from .._held import HeldArrays
from .._reports import Reports, cause_of
from .counters import Counters
from .guard import misses, no_pages
from .pools import Pool, lines
from .settings import Settings, is_writer, namespace, revision_of
from .side_pools import SidePools
from .tensors import TensorMethods

logger = logging.getLogger("hicache.sglang")

#: Pages that SGLang hands over as tensors are in an order of their own, so they are not those of the pool `kv`.
_FLAT = "kv.flat"


class HiCacheRust(TensorMethods, SidePools, HiCacheStorage):
    """Keeps SGLang's KV pages in a page store.

    Making and registering it raises for what the operator must mend (``ValueError`` for settings, ``OSError`` for the
    machine); SGLang then refuses to attach, with the message. Every other call answers misses for what goes wrong.
    """

    def __init__(self, storage_config: Any, kwargs: Optional[Dict[str, Any]] = None) -> None:
        del kwargs  # What SGLang passes there is in the config too.
        self._config = storage_config
        self._settings = Settings(storage_config)
        self._writer = is_writer(storage_config)
        self._counters = Counters()
        self._reports = Reports(logger)
        self._store: Optional[_native.Store] = None
        self._arrays: Optional[HeldArrays] = None
        self._pools: Dict[str, Pool] = {}
        self._pool: Optional[Pool] = None
        self._asked = "kv" if self._settings.zero_copy else _FLAT
        self.registered_pools: Dict[Any, Any] = {}
        self.mem_pool_host: Any = None
        if not self._settings.zero_copy:
            logger.warning(
                'SGLang copies every page before it is stored and after it is loaded; add "interface_v1": 1 to the '
                "extra config where this release of SGLang knows it"
            )

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Opens the storage for the pages of this pool, and registers the pool's memory, once."""
        self.mem_pool_host = mem_pool_host
        self._pool = Pool("kv", mem_pool_host)
        self._open(reader=not self._writer)
        self._register(self._pool)

    def _open(self, reader: bool) -> None:
        assert self._pool is not None
        table = dict(self._settings.table)
        if reader and "role" not in table:
            table["role"] = "reader"
        described = namespace(self._config, self._pool, self._settings)
        begun = time.monotonic()
        store = _native.Store.open(json.dumps(table), json.dumps(described), revision_of(self._config))
        self.close()  # What was open before stays, if this one can't be opened.
        self._store = store
        self._arrays = HeldArrays(self._store)
        said, fingerprint = self._store.namespace() or ("{}", "")
        logger.info(
            "hicache is open after %.2f s: %s, %s, namespace %s = %s",
            time.monotonic() - begun,
            self._store.backend,
            "reader" if reader else "writer",
            fingerprint,
            said,
        )
        for note in self._store.notes:
            logger.warning("%s", note)
        for passed_over in self._store.skipped:
            logger.debug("%s", passed_over)
        self._reports.pass_on()

    def _register(self, pool: Pool) -> None:
        assert self._store is not None
        pool.register(self._store)
        self._pools[pool.name] = pool

    def _opened(self) -> _native.Store:
        if self._store is None:
            raise RuntimeError("the storage is closed, or no pool was registered")
        return self._store

    def _move(self, loads: bool, pool: Pool, keys: List[str], host_indices: Any) -> List[bool]:
        """Loads or stores pages of a pool in place."""
        store = self._opened()
        if not keys:
            return []
        addresses, lengths = pool.pieces(keys, host_indices)
        begun = time.perf_counter()
        batch = (store.load if loads else store.store)(pool.key, keys, addresses, lengths)
        self._note(loads, batch, time.perf_counter() - begun)
        return batch.done

    def _note(self, loads: bool, batch: _native.Batch, seconds: float) -> None:
        self._counters.moved("loaded" if loads else "stored", sum(batch.done), batch.bytes, seconds)
        self._counters.add(missed_pages=batch.absent, failed_pages=batch.failed)
        if batch.error is not None:
            what = "loaded" if loads else "stored"
            self._reports.tell(
                logging.WARNING,
                f"{what} {cause_of(batch.error)}",
                f"{batch.failed} pages were not {what}: {batch.error}",
            )

    @misses(lambda *_, **__: 0)
    def batch_exists(self, keys: List[str], extra_info: Any = None) -> int:
        """How many keys from the start are there."""
        there = self._opened().exists_prefix(self._asked, lines(keys))
        self._counters.add(asked_pages=len(keys), present_pages=there)
        return there

    @misses(no_pages)
    def batch_get_v1(self, keys: List[str], host_indices: Any, extra_info: Any = None) -> List[bool]:
        """Loads pages into the pool's slots; says of each whether it is there and right."""
        return self._move(True, self._kv(), keys, host_indices)

    @misses(no_pages)
    def batch_set_v1(self, keys: List[str], host_indices: Any, extra_info: Any = None) -> List[bool]:
        """Stores pages out of the pool's slots; says of each whether a load would find it."""
        if not self._writer:
            self._counters.add(skipped_pages=len(keys))
            return [True] * len(keys)  # Another rank stores the same bytes.
        return self._move(False, self._kv(), keys, host_indices)

    def _kv(self) -> Pool:
        if self._pool is None:
            raise RuntimeError("no pool was registered")
        return self._pool

    @misses(lambda *_, **__: False)
    def clear(self) -> bool:
        """Deletes the pages of this namespace, and of no other."""
        if not self._writer and not self._owns_side_pools():
            return True  # The rank that stores them clears them.
        deleted = self._opened().clear()
        logger.info("hicache has cleared %d pages of its namespace", deleted)
        return True

    @misses(lambda *_, **__: None)
    def get_stats(self) -> Any:
        """What was moved since the last call, as SGLang's metrics take it."""
        return self._counters.take_metrics()

    @misses(lambda *_, **__: {})
    def counters(self) -> Dict[str, Any]:
        """Counts of this backend, and under ``store`` those of the storage."""
        counts: Dict[str, Any] = dict(self._counters.counts())
        if self._store is not None:
            counts["store"] = json.loads(self._store.stat())
        return counts

    @misses(lambda *_, **__: None)
    def close(self) -> None:
        """Ends what was begun and closes the storage; later calls are misses. It may be called twice."""
        store, self._store = self._store, None
        arrays, self._arrays = self._arrays, None
        self._pools = {}
        if arrays is not None:
            arrays.close()
        if store is not None:
            store.close()
            self._reports.pass_on()
