"""The v2 interface: models whose pages have parts in several pools."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Set

from .guard import misses, no_transfers
from .pools import Pool, lines
from .settings import draft_model

#: Pools of which every rank has its own bytes, even where all ranks share the KV pages.
_OF_EACH_RANK = frozenset(["mamba"])


def _no_hit(*_: Any, **__: Any) -> Any:
    from sglang.srt.mem_cache.hicache_storage import PoolTransferResult

    return PoolTransferResult.empty()


def _name(name: Any) -> str:
    return str(getattr(name, "value", name))


class SidePools:
    """Registration, exists, get and set of several pools. A part of ``HiCacheRust``."""

    def register_mem_host_pool_v2(self: Any, host_pool: Any, host_pool_name: Any) -> None:
        """Registers a pool beside KV. One that can't be served is a miss, told once; the others go on."""
        self.registered_pools[host_pool_name] = host_pool
        name = _name(host_pool_name)
        if name == "kv":
            return
        try:
            own = name in _OF_EACH_RANK
            if own and not self._writer and not self._owns_side_pools():
                # This rank has pages of its own to store after all.
                pools = list(self._pools.values())
                self._open(reader=False)
                for pool in pools:
                    self._register(pool)
            position = f"{getattr(self._config, 'tp_rank', 0)}/{getattr(self._config, 'tp_size', 1)}" if own else ""
            if name.startswith("draft"):
                position += draft_model() or ""
            self._register(Pool(name, host_pool, position))
        except Exception as error:
            self._counters.add(failed_calls=1)
            self._reports.tell(
                logging.ERROR,
                f"register {name}",
                f"pool {name} ({type(host_pool).__name__}) is not served, and its model's loads miss: {error}",
            )

    def _owns_side_pools(self: Any) -> bool:
        return any(name in _OF_EACH_RANK for name in self._pools)

    @misses(_no_hit)
    def batch_exists_v2(
        self: Any, keys: List[str], pool_transfers: Optional[List[Any]] = None, extra_info: Any = None
    ) -> Any:
        """The longest prefix that KV and all other pools can restore, and every other length that they can."""
        from sglang.srt.mem_cache.hicache_storage import PoolTransferResult

        store = self._opened()
        pages = store.exists_prefix(self._asked, lines(keys))
        self._counters.add(asked_pages=len(keys), present_pages=pages)
        hits: Dict[Any, int] = {"kv": pages} if pages else {}
        lengths: Set[int] = set(range(1, pages + 1))
        for transfer in pool_transfers or []:
            policy = _name(transfer.hit_policy)
            if policy not in ("all_pages", "trailing_pages"):
                # It gates nothing, and a pool that is not in the answer has no verdict.
                self._reports.tell(logging.WARNING, f"policy {policy}", f"hit policy {policy} is not served")
                continue
            pool = self._pools.get(_name(transfer.name))
            there = store.exists(pool.key, lines(keys[:pages])) if pool is not None else [False] * pages
            if policy == "all_pages":
                restorable = set(range(1, _run(there) + 1))
            else:
                restorable = _windows(there, max(1, len(transfer.keys or ())))
            if restorable:
                hits[transfer.name] = max(restorable)
            lengths &= restorable
        return PoolTransferResult(max(lengths, default=0), hits, sorted(lengths))

    @misses(no_transfers)
    def batch_get_v2(self: Any, transfers: List[Any], extra_info: Any = None) -> Dict[Any, List[bool]]:
        """Loads the pages of each transfer into its pool."""
        return {transfer.name: self._transfer(True, transfer) for transfer in transfers}

    @misses(no_transfers)
    def batch_set_v2(self: Any, transfers: List[Any], extra_info: Any = None) -> Dict[Any, List[bool]]:
        """Stores the pages of each transfer out of its pool."""
        return {transfer.name: self._transfer(False, transfer) for transfer in transfers}

    def _transfer(self: Any, loads: bool, transfer: Any) -> List[bool]:
        name, keys = _name(transfer.name), list(transfer.keys or [])
        try:
            if not loads and not self._writer and name not in _OF_EACH_RANK:
                self._counters.add(skipped_pages=len(keys))
                return [True] * len(keys)
            pool = self._kv() if name == "kv" else self._pools.get(name)
            if pool is None:
                raise LookupError(f"pool {name} is not registered here")
            return self._move(loads, pool, keys, transfer.host_indices)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # One pool's trouble is not the others'.
            self._counters.add(failed_calls=1)
            self._reports.tell(
                logging.ERROR, f"transfer {name} {type(error).__name__}", f"pool {name} failed and counts as a miss: {error}"
            )
            return [False] * len(keys)


def _run(there: List[bool]) -> int:
    return there.index(False) if False in there else len(there)


def _windows(there: List[bool], window: int) -> Set[int]:
    """Lengths whose last ``window`` pages, or all where there are fewer, are there."""
    lengths, run = set(), 0
    for length, present in enumerate(there, 1):
        run = run + 1 if present else 0
        if run >= min(window, length):
            lengths.add(length)
    return lengths
