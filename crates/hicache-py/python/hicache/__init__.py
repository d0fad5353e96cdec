"""The KV cache of LLM servers, kept on storage.

``hicache.sglang.HiCacheRust`` is the storage backend for SGLang; ``HiCacheNixl`` is the connector for those who use it
outside of SGLang. ``probe`` says which backends work here, ``page_hashes`` names pages as SGLang does, and
``python -m hicache`` is the command.
"""

from __future__ import annotations

import json as _json
from typing import Any, Dict, List, Optional, Sequence

try:
    from . import _native
except ImportError as _error:
    import sys as _sys

    raise ImportError(
        "hicache._native can't be loaded by this Python "
        f"({_sys.implementation.name} {_sys.version.split()[0]}, {_sys.platform}): the wheel is for CPython 3.9 and "
        "later on Linux, with the GIL; install the one for this interpreter with its own pip"
    ) from _error

from ._arrays import Array as _Array
from ._arrays import plain_integers as _plain_integers

__version__: str = _native.__version__
__all__ = ["HiCacheNixl", "__version__", "page_hashes", "probe"]


def __getattr__(name: str) -> Any:
    if name == "HiCacheNixl":
        from .connector import HiCacheNixl

        return HiCacheNixl
    raise AttributeError(f"module 'hicache' has no attribute {name!r}")


def probe(storage_dir: Optional[Any] = None, **settings: Any) -> Dict[str, Any]:
    """Which backends work on this machine, and why the others don't.

    Moves real bytes in each storage directory and leaves nothing behind. Answers ``{"directories": [{"directory": …,
    "backends": [{"backend", "verdict", "reason", "checks"}, …]}, …]}``. Raises ``ValueError`` for unknown settings.
    """
    table = dict(settings)
    if storage_dir is not None:
        table["storage_dir"] = storage_dir if isinstance(storage_dir, list) else str(storage_dir)
    return _json.loads(_native.probe(_json.dumps(table)))


def page_hashes(
    tokens: Sequence[int],
    page_size: int,
    prior: Optional[str] = None,
    extra_key: Optional[str] = None,
    cache_salt: Optional[str] = None,
) -> List[str]:
    """SGLang's names of the pages of a prompt: 64 hex digits a page; the last page may be partial.

    ``tokens`` is a list, or an array or tensor of 32 or 64 bit integers, which is read in place. ``prior`` is the hash
    of the page before the first, in which extra key and salt are already; without it the chain starts from those two.
    Raises ``ValueError`` for a page size of 0, for negative ids and for a ``prior`` that is no hash.
    """
    if isinstance(tokens, (list, tuple)):
        return _native.hash_pages(tokens, page_size, prior, extra_key, cache_salt)
    plain = _plain_integers(tokens)
    if plain is not None:
        address, count, kind, _held = plain
        return _native.hash_pages_at(address, count, kind, page_size, prior, extra_key, cache_salt)
    array = _Array.of(tokens)
    try:
        if array is None or array.kind is None or not array.on_host:
            return _native.hash_pages(list(tokens), page_size, prior, extra_key, cache_salt)
        if not array.contiguous:
            raise ValueError("the token ids must be contiguous; pass a copy")
        count = array.bytes // int(array.kind[1])
        return _native.hash_pages_at(array.address, count, array.kind, page_size, prior, extra_key, cache_salt)
    finally:
        if array is not None:
            array.release()
