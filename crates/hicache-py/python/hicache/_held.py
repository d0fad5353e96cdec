"""Memory of tensors and arrays: registered once, held weakly."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
import weakref
from collections import OrderedDict, deque
from typing import Any, Deque, Dict, Iterator, List, Optional, Tuple

from . import _native
from ._arrays import Array
from ._forks import renew_in_child

#: Tensors that stay registered; the one that was used longest ago goes first.
MOST = 1024


class Answer:
    """What became of a batch, as ``_native.Batch`` has it."""

    def __init__(self, pages: int) -> None:
        self.done: List[bool] = [False] * pages
        self.absent = 0
        self.failed = 0
        self.bytes = 0
        self.error: Optional[str] = None

    def take(self, batch: _native.Batch, places: List[int]) -> None:
        """Adds the answer for the pages at ``places``."""
        for place, done in zip(places, batch.done):
            self.done[place] = done
        self.absent += batch.absent
        self.failed += batch.failed
        self.bytes += batch.bytes
        self.error = self.error or batch.error


class _Held:
    """One registration, and how many calls use it now. What is let go of meanwhile ends with the last of them."""

    __slots__ = ("address", "busy", "bytes", "dropped", "handle", "reference")

    def __init__(self, reference: Optional[weakref.ref], array: Array, handle: int) -> None:
        self.reference = reference  # None for what is registered for one call, which has the object at hand.
        self.address, self.bytes = array.address, array.bytes
        self.handle = handle
        self.busy = 0
        self.dropped = reference is None

    def refers_to(self, obj: Any) -> bool:
        """Whether it is of this object."""
        return self.reference is not None and self.reference() is obj


class HeldArrays:
    """Registrations of one store.

    A registration keeps the kernel's idea of an address, not the object: it is forgotten when the object goes, and when
    the object's memory is found elsewhere. An object that can't be referred to weakly (bytes, a bytearray) goes through
    a buffer of our own, copied once; one in memory of a GPU is registered for the call.
    """

    def __init__(self, store: _native.Store) -> None:
        self._store: Optional[_native.Store] = store
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Makes lock and registrations anew: in a forked child, whose parent keeps its own."""
        # Not reentrant: an object may go while this very thread holds the lock, and must then only be noted.
        self._lock = threading.Lock()
        self._gone: Deque[Tuple[int, weakref.ref]] = deque()
        self._held: "OrderedDict[int, _Held]" = OrderedDict()
        self._stage: Optional[mmap.mmap] = None
        self._stage_at: Tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._held)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_native.Store]:
        """The store, under the lock."""
        with self._lock:
            if self._store is None:
                raise RuntimeError("the connector is closed")
            self._sweep()
            yield self._store

    def array_of(self, obj: Any, writable: bool) -> Array:
        """The bytes of ``obj``, if the store can move them. Raises as ``movable_array``."""
        with self._opened() as store:
            device = store.device
        return movable_array(obj, writable, device)

    def register(self, array: Array) -> bool:
        """Makes an array's memory known, unless it is; false if its object has no weak references."""
        with self._opened() as store:
            found = self._find(store, array) is not None
            self._trim()
            return found

    def _find(self, store: _native.Store, array: Array) -> Optional[_Held]:
        key = id(array.object)
        held = self._held.get(key)
        if held is not None:
            if held.refers_to(array.object) and (held.address, held.bytes) == (array.address, array.bytes):
                self._held.move_to_end(key)
                return held
            self._drop(key)
        try:
            reference = weakref.ref(array.object, lambda gone: self._went(key, gone))
        except TypeError:
            return None
        held = self._registered(store, array, reference)
        self._held[key] = held
        return held

    @staticmethod
    def _registered(store: _native.Store, array: Array, reference: Optional[weakref.ref]) -> _Held:
        device = store.device if array.on_gpu else None
        # No owner: the registration goes when the object does, and until then every use of it has the object at hand.
        return _Held(reference, array, store.register(array.address, array.bytes, array.pinned, None, device))

    def _trim(self) -> None:
        idle = [key for key, held in self._held.items() if not held.busy]
        for key in idle[: max(0, len(self._held) - MOST)]:
            self._drop(key)

    def forget(self, obj: Any) -> bool:
        """Lets go of an object's memory."""
        with self._lock:
            self._sweep()
            held = self._held.get(id(obj))
            if held is None or not held.refers_to(obj):
                return False
            self._drop(id(obj))
            return True

    def _went(self, key: int, reference: weakref.ref) -> None:
        """An object is gone. This runs wherever Python collects garbage, so it waits for no lock."""
        self._gone.append((key, reference))
        lock = self._lock
        if lock.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                lock.release()

    def _sweep(self) -> None:
        while self._gone:
            key, reference = self._gone.popleft()
            held = self._held.get(key)
            if held is not None and held.reference is reference:
                self._drop(key)

    def _drop(self, key: int) -> None:
        held = self._held.pop(key)
        held.dropped = True
        if not held.busy:
            self._deregister(held)

    def _deregister(self, held: _Held) -> None:
        if self._store is not None:
            with contextlib.suppress(RuntimeError):  # Closed, or a forked child, whose parent goes on.
                self._store.deregister(held.handle)

    def move(
        self, loads: bool, pool: str, keys: List[str], objects: List[Any], overwrite: bool = False
    ) -> Answer:
        """Loads or stores the bytes of objects under keys."""
        answer = Answer(len(keys))
        arrays = [self.array_of(obj, writable=loads) for obj in objects]
        used: Dict[int, _Held] = {}
        try:
            with self._opened() as store:
                for place, array in enumerate(arrays):
                    held = self._find(store, array)
                    if held is None and array.on_gpu:
                        held = self._registered(store, array, None)
                    if held is not None:
                        held.busy += 1
                        used[place] = held
            for place, array in enumerate(arrays):
                if place not in used:
                    self._move_staged(loads, pool, keys[place], array, overwrite, place, answer)
            if used:
                parts: Dict[str, Any] = {
                    "keys": [keys[place] for place in used],
                    "addresses": [arrays[place].address for place in used],
                    "lengths": [arrays[place].bytes for place in used],
                    "handles": [held.handle for held in used.values()],
                }
                if loads:
                    answer.take(store.load(pool, **parts), list(used))
                else:
                    answer.take(store.store(pool, overwrite=overwrite, **parts), list(used))
        finally:
            with self._lock:
                for held in used.values():
                    held.busy -= 1
                    if held.dropped and not held.busy:
                        self._deregister(held)
                self._trim()
            for array in arrays:
                array.release()
        return answer

    def _move_staged(
        self, loads: bool, pool: str, key: str, array: Array, overwrite: bool, place: int, answer: Answer
    ) -> None:
        with self._opened() as store:
            address, handle = self._staging(store, array.bytes)
            # Between addresses, since not every object has a buffer; `array` holds what keeps its own in place.
            if not loads:
                ctypes.memmove(address, array.address, array.bytes)
                batch = store.store(pool, [key], [address], [array.bytes], [handle], overwrite)
            else:
                batch = store.load(pool, [key], [address], [array.bytes], [handle])
                if batch.done[0]:
                    ctypes.memmove(array.address, address, array.bytes)
            answer.take(batch, [place])

    def _staging(self, store: _native.Store, length: int) -> Tuple[int, int]:
        if self._stage is None or len(self._stage) < length:
            stage = mmap.mmap(-1, max(length, 1 << 20))
            whole = Array.of(stage)
            assert whole is not None
            try:
                handle = store.register(whole.address, whole.bytes, False, stage)
            finally:
                whole.release()
            if self._stage is not None:
                store.deregister(self._stage_at[1])
            self._stage, self._stage_at = stage, (whole.address, handle)
        return self._stage_at

    def close(self) -> None:
        """Lets go of everything, the store included; its own close drops the registrations."""
        with self._lock:
            self._held.clear()
            self._gone.clear()
            self._stage = None
            self._store = None


def movable_array(obj: Any, writable: bool, device: Optional[int]) -> Array:
    """The bytes of ``obj``, in memory of the host or of the GPU ``device``.

    Raises ``TypeError`` and ``ValueError`` for what can't be moved, saying why.
    """
    array = Array.of(obj)
    if array is None:
        raise TypeError(
            f"{type(obj).__name__} has no bytes that can be moved; pass a tensor, a numpy array, or an object with the "
            "buffer protocol, CUDA's array interface or DLPack"
        )
    reason = ""
    if array.on_gpu and device is None:
        number = 0 if array.gpu is None else array.gpu
        reason = (
            f"is on {array.device}, and this store was opened for host memory only; open it with device={number}, or "
            "copy the tensor to the CPU"
        )
    elif array.on_gpu and array.gpu not in (None, device):
        reason = (
            f"is on {array.device}, and this store was opened with device={device}; open another one for that device, "
            "or copy the tensor"
        )
    elif not (array.on_host or array.on_gpu):
        reason = f"is on {array.device}, which no backend moves; copy it to the CPU"
    elif array.unresolved:
        reason = "is conjugated or negated only when it is read; pass tensor.resolve_conj().resolve_neg()"
    elif not array.contiguous:
        reason = "is not contiguous; pass a contiguous copy"
    elif array.bytes == 0 or array.address == 0:
        reason = "has no bytes"
    elif writable and array.readonly:
        reason = "is read-only; a load needs memory that may be written"
    if reason:
        array.release()
        raise ValueError(f"the {type(obj).__name__} {reason}")
    return array
