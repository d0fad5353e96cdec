"""SGLang's host pools: what they are of, and where their pages are."""

from __future__ import annotations

import array
import hashlib
import json
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

from .. import _native
from .._arrays import Array

#: How deep buffers are looked for: lists of tensors in a pool that a pool holds.
_DEPTH = 3


class Pool:
    """One host pool, its memory registered once."""

    def __init__(self, name: str, host_pool: Any, position: str = "") -> None:
        self.name = name
        self.host_pool = host_pool
        self.page_size = int(getattr(host_pool, "page_size", 1) or 1)
        self.layout = str(getattr(host_pool, "layout", "") or "unnamed")
        self.dtype = dtype_of(host_pool)
        self.layers = _number(host_pool, "layer_num")
        #: Whether layers of a draft model lie in each page, behind the model's own.
        self.has_drafts = (self.layers or 0) > (_number(host_pool, "target_layer_num") or self.layers or 0)
        self.heads = _number(host_pool, "head_num")
        self.head_dim = _number(host_pool, "head_dim")
        addresses, lengths = self._meta(_indices(self.page_size))
        self._sample: List[Tuple[int, int]] = list(zip(addresses, lengths))
        #: Lengths of the pieces of a page, which tell pages of other shapes apart.
        self.shape = f"{len(lengths)}:{sum(lengths)}:{hashlib.sha256(repr(lengths).encode()).hexdigest()[:16]}"
        #: The pool's name in the store. Side pools differ in more than their names, and a name has 31 characters.
        self.key = "kv" if name == "kv" else f"{_short(name)}.{self._fingerprint(position)}"

    def _fingerprint(self, position: str) -> str:
        described = [self.name, self.dtype, self.layout, self.page_size, self.shape, position]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

    def register(self, store: _native.Store) -> None:
        """Makes the buffers that pages lie in known, each once, whole.

        The addresses are those of the tensors' own storages, and each registration holds its tensor, so the memory
        stays where it is until the registration is gone. SGLang gives a slot to one operation at a time.
        """
        pinned = bool(getattr(self.host_pool, "pin_memory", False))
        missing = list(self._sample)
        for address, length, owner in _storages(self.host_pool):
            inside = [piece for piece in missing if address <= piece[0] and piece[0] + piece[1] <= address + length]
            if inside:
                store.register(address, length, pinned, owner)
                missing = [piece for piece in missing if piece not in inside]
        if missing:
            raise ValueError(
                f"pool {self.name} ({type(self.host_pool).__name__}, layout {self.layout}) has pages at addresses that "
                "are not in its CPU tensors; hicache moves pools in host memory"
            )

    def pieces(self, keys: List[str], host_indices: Any) -> Tuple[List[int], List[int]]:
        """Addresses and lengths of the pieces of the pages of ``keys``."""
        slots = len(host_indices) if host_indices is not None else 0
        if slots != len(keys) * self.page_size:
            raise ValueError(
                f"pool {self.name} was given {len(keys)} keys and {slots} slots; a key has {self.page_size} slots"
            )
        return self._meta(host_indices)

    def _meta(self, host_indices: Any) -> Tuple[List[int], List[int]]:
        find = getattr(self.host_pool, "get_page_buffer_meta", None)
        if not callable(find):
            raise ValueError(
                f"pool {self.name} ({type(self.host_pool).__name__}) has no pages of its own, only the numbers of other "
                "pools' pages; models with such a pool are not served"
            )
        meta = find(host_indices)
        return list(meta[0]), [int(length) for length in meta[1]]


def lines(keys: List[str]) -> Union[str, List[str]]:
    """Keys as one text, a line each, which crosses into Rust much faster than a list."""
    text = "\n".join(keys)
    return text if keys and text.count("\n") == len(keys) - 1 else keys


def dtype_of(host_pool: Any) -> str:
    """The type of the numbers, not of the storage that holds them: of fp8 the device pool knows which."""
    device_pool = getattr(host_pool, "device_pool", None)
    dtype = getattr(device_pool, "dtype", None) or getattr(host_pool, "dtype", None)
    stored = getattr(host_pool, "dtype", None)
    names = [str(each).replace("torch.", "") for each in (dtype, stored) if each is not None]
    return names[0] if len(set(names)) == 1 else " in ".join(names) or "unknown"


def _number(host_pool: Any, name: str) -> Optional[int]:
    value = getattr(host_pool, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _short(name: str) -> str:
    plain = "".join(letter for letter in name if letter.isascii() and letter.isprintable() and letter not in " .")
    return plain[:14] or "pool"


def _indices(count: int) -> Any:
    try:
        import torch
    except ImportError:  # Without torch there is no SGLang, but a pool that a test made.
        return array.array("q", range(count))
    return torch.arange(count, dtype=torch.int64)


def _storages(host_pool: Any) -> Iterator[Tuple[int, int, Any]]:
    """Address, length and owner of every allocation in host memory that the pool holds."""
    seen: Dict[int, Tuple[int, Any]] = {}
    for value in _values(host_pool, _DEPTH, set()):
        storage = getattr(value, "untyped_storage", None)
        if callable(storage):
            if getattr(value.device, "type", "") != "cpu":
                continue
            storage = storage()
            address, length = storage.data_ptr(), storage.nbytes()
        else:
            try:
                described = Array.of(value)
            except (TypeError, ValueError):  # An array of objects, for one: no memory of pages.
                continue
            if described is None or not described.on_host or described.readonly:
                continue
            address, length = described.address, described.bytes
            described.release()
        if length > seen.get(address, (0, None))[0]:
            seen[address] = (length, value)
    for address, (length, owner) in sorted(seen.items()):
        yield address, length, owner


def _values(holder: Any, depth: int, seen: set) -> Iterator[Any]:
    if depth == 0 or id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, dict):
        values = list(holder.values())
    elif isinstance(holder, (list, tuple)):
        values = list(holder)
    else:
        values = list(getattr(holder, "__dict__", {}).values())
    for value in values:
        if callable(getattr(value, "data_ptr", None)) or hasattr(value, "__array_interface__"):
            yield value
        elif isinstance(value, (list, tuple, dict)) or hasattr(value, "get_page_buffer_meta"):
            yield from _values(value, depth - 1, seen)
