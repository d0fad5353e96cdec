"""``HiCacheNixl``: tensors by key, for those who use the connector outside of SGLang."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import weakref
from typing import Any, List, Optional

from . import _native
from ._held import HeldArrays
from ._reports import Reports, cause_of

logger = logging.getLogger("hicache.connector")

_POOL = "text"
_LISTED = 1000
#: NIXL's plugins, by the names that HiCacheNixl has always taken.
_NIXL_PLUGINS = ("GDS_MT", "GDS", "3FS", "POSIX", "OBJ")
#: Connectors that are to be closed before the process ends: the driver of a GPU goes then, whoever still uses it.
_ON_A_GPU: "weakref.WeakSet[HiCacheNixl]" = weakref.WeakSet()


class HiCacheNixl:
    """Keeps tensors under text keys in a directory.

    ``file_plugin`` is ``auto``, a plugin of NIXL (``GDS_MT``, ``GDS``, ``3FS``, ``POSIX``, ``OBJ``; with NIXL's wheel
    beside this package) or another backend (``posix-uring``, ``posix-pread``, ``memory``, ``obj-s3``). Bad arguments
    raise ``ValueError`` or ``TypeError``; what fails on the way is ``None`` or ``False`` and a log line.

    ``device`` is the number of a GPU, as this process counts them: tensors may then be in its memory as well as in the
    host's, through a backend that moves both. Before a tensor of a GPU is stored or loaded, all that this process has
    queued on the device is waited for: a tensor that a kernel still writes is stored as that kernel leaves it.

    Any dtype and shape will do. A tensor must be contiguous. A key keeps bytes, neither dtype nor shape: the tensor
    that is loaded into must have as many bytes as the one that was stored.
    """

    def __init__(
        self,
        file_path: str = "/tmp/hicache_nixl",
        file_plugin: str = "auto",
        device: Optional[int] = None,
        **settings: Any,
    ) -> None:
        plugin = next((name for name in _NIXL_PLUGINS if name.lower() == file_plugin.lower()), None)
        backend = file_plugin if plugin is None else f"nixl:{plugin}"
        table = {"storage_dir": [str(file_path)], "backend": backend, **settings}
        if device is not None:
            table["device"] = device
        described = {"model": "hicache.HiCacheNixl"}
        self._reports = Reports(logger)
        store = _native.Store.open(json.dumps(table), json.dumps(described))
        self._open: Optional[_native.Store] = store
        self._arrays = HeldArrays(store)
        if store.device is not None:
            _ON_A_GPU.add(self)
        for note in store.notes:
            logger.info("%s", note)

    @property
    def _store(self) -> _native.Store:
        if self._open is None:
            raise RuntimeError("the connector is closed")
        return self._open

    @property
    def backend(self) -> str:
        """Name of the backend that was chosen."""
        return self._store.backend

    @property
    def device(self) -> Optional[int]:
        """Number of the GPU whose tensors are moved too; ``None`` where only those of the host are."""
        return self._store.device

    def get(self, key: str, dst_tensor: Optional[Any] = None) -> Optional[Any]:
        """Loads the value into ``dst_tensor`` and answers it; ``None`` if the key is not there, or without a tensor."""
        return self.batch_get([key], [dst_tensor])[0]

    def batch_get(self, keys: List[str], dst_tensors: Optional[List[Any]] = None) -> List[Optional[Any]]:
        """Loads values into tensors; answers each, ``None`` for a key that is not there or has no tensor."""
        tensors = list(dst_tensors) if dst_tensors is not None else [None] * len(keys)
        _same_length(keys, tensors)
        places = [place for place, tensor in enumerate(tensors) if tensor is not None]
        answers: List[Optional[Any]] = [None] * len(keys)
        done = self._move(True, [keys[place] for place in places], [tensors[place] for place in places], False)
        for place, good in zip(places, done):
            answers[place] = tensors[place] if good else None
        return answers

    def set(self, key: str, value: Any, overwrite: bool = False) -> bool:
        """Stores a tensor. Without ``overwrite`` a key that is there stays as it is, and counts as stored."""
        return self.batch_set([key], [value], overwrite)

    def batch_set(self, keys: List[str], values: List[Any], overwrite: bool = False) -> bool:
        """Stores tensors; whether all of them are there."""
        _same_length(keys, values)
        return all(self._move(False, keys, list(values), overwrite))

    def exists(self, key: str) -> bool:
        """Whether the key is there."""
        return self._store.exists(_POOL, [key])[0]

    def batch_exists(self, keys: List[str]) -> List[bool]:
        """Which keys are there."""
        return self._store.exists(_POOL, keys)

    def delete(self, key: str) -> None:
        """Deletes the key, if it is there."""
        self._store.delete(_POOL, [key])

    def clear(self) -> None:
        """Deletes every key of this connector."""
        self._store.clear()

    def keys(self, prefix: str = "") -> List[str]:
        """The keys that begin with ``prefix``, in no particular order."""
        names: List[str] = []
        cursor: Optional[str] = None
        while True:
            pages, cursor = self._store.list(prefix, _LISTED, cursor)
            names.extend(name for _, name, _ in pages)
            if cursor is None:
                return names

    def register(self, tensor: Any) -> bool:
        """Registers the tensor's memory before its first use; it is held weakly. False if it can't be moved."""
        try:
            array = self._arrays.array_of(tensor, writable=False)
            try:
                return self._arrays.register(array)
            finally:
                array.release()
        except (TypeError, ValueError, NotImplementedError, OSError) as error:
            logger.warning("a tensor was not registered: %s", error)
            return False

    def deregister(self, tensor: Any) -> bool:
        """Lets go of the tensor's memory. False if it was not registered."""
        return self._arrays.forget(tensor)

    def close(self) -> None:
        """Ends what was begun and closes. It may be called twice."""
        store, self._open = self._open, None
        self._arrays.close()
        if store is not None:
            store.close()

    def __enter__(self) -> "HiCacheNixl":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _move(self, loads: bool, keys: List[str], tensors: List[Any], overwrite: bool) -> List[bool]:
        self._reports.pass_on()
        if not keys:
            return []
        assert self._store  # Raises when closed.
        answer = self._arrays.move(loads, _POOL, keys, tensors, overwrite)
        if answer.error is not None:
            what = "loaded" if loads else "stored"
            self._reports.tell(
                logging.WARNING,
                f"{what} {cause_of(answer.error)}",
                f"{answer.failed} tensors were not {what}: {answer.error}",
            )
        return answer.done


def _same_length(keys: List[str], tensors: List[Any]) -> None:
    if len(keys) != len(tensors):
        raise ValueError(f"{len(keys)} keys and {len(tensors)} tensors; each key needs one")


@atexit.register
def _close_those_on_a_gpu() -> None:
    for connector in list(_ON_A_GPU):
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # A forked child's are its parent's.
            connector.close()
