"""Where the bytes are of torch tensors, numpy arrays, the buffer protocol, CUDA's array interface, DLPack.

Nothing is imported for it: a torch tensor is known by its methods. An ``Array`` holds its object, so the address is
good as long as the ``Array`` is.

Which stream writes memory of a GPU is not asked: the native half waits for all of them before it looks at the memory.
"""

from __future__ import annotations

import ctypes
from typing import Any, Optional, Sequence, Tuple

_py = ctypes.pythonapi


class _Buffer(ctypes.Structure):
    """``Py_buffer``, whose layout is part of the stable ABI."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


class _DLTensor(ctypes.Structure):
    """``DLTensor``, the first member of a ``DLManagedTensor``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_get_buffer = _py.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int]
_get_buffer.restype = ctypes.c_int
_release_buffer = _py.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_Buffer)]
_release_buffer.restype = None
_capsule_pointer = _py.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = ctypes.c_void_p

_FULL_READ_ONLY = 0x011C  # PyBUF_FULL_RO: shape, strides, suboffsets and format, read-only allowed.
# DLPack's types of devices whose memory the CPU reads and writes: CPU, and host memory that CUDA or ROCm pinned.
_DL_HOST = {1: False, 3: True, 11: True}
_DL_CUDA = 2

_KINDS = {(code, size): f"{'iu'[code.isupper()]}{size}" for code in "ilqnILQN" for size in (4, 8)}


def plain_integers(obj: Any) -> Optional[Tuple[int, int, str, Any]]:
    """Address, count and kind of the integers of the usual arrays, and what keeps them in place, in a microsecond.

    ``None`` for what needs a closer look: other types, tensors, and what is read-only, empty or not contiguous.
    """
    try:
        view = memoryview(obj)
        kind = _KINDS.get((view.format, view.itemsize))
        if kind is None:
            return None
        first = ctypes.c_char.from_buffer(view)
    except (BufferError, TypeError, ValueError):
        return None
    return ctypes.addressof(first), view.nbytes // view.itemsize, kind, first


def _packed(shape: Sequence[int], strides: Optional[Sequence[int]], item: int) -> Tuple[int, bool]:
    """Length of an array of items of length ``item``, and whether they lie in order without gaps."""
    length, packed = item, True
    for axis in reversed(range(len(shape))):
        if strides and shape[axis] > 1 and strides[axis] != length:
            packed = False
        length *= shape[axis]
    return length, packed


class Array:
    """A run of bytes in memory, and the object that keeps it there."""

    __slots__ = (
        "address",
        "bytes",
        "contiguous",
        "device",
        "gpu",
        "kind",
        "object",
        "on_gpu",
        "on_host",
        "pinned",
        "readonly",
        "unresolved",
        "_held",
    )

    def __init__(self, obj: Any) -> None:
        self.object = obj
        self.address = 0
        self.bytes = 0
        self.contiguous = True
        self.device = "cpu"
        self.gpu: Optional[int] = None  # Number of the GPU, where the object says it.
        self.kind: Optional[str] = None  # Of integers of 32 and 64 bits: i4, u4, i8, u8.
        self.on_gpu = False  # In memory of a GPU, as CUDA counts them.
        self.on_host = True
        self.pinned = False
        self.readonly = False
        self.unresolved = False  # torch conjugates or negates it when it is read, so these are another tensor's bytes.
        self._held: Any = None

    @classmethod
    def of(cls, obj: Any) -> Optional["Array"]:
        """The bytes of ``obj``; ``None`` if it has none that can be seen."""
        array = cls(obj)
        if callable(getattr(obj, "data_ptr", None)) and callable(getattr(obj, "element_size", None)):
            array._tensor(obj)
        elif not (array._buffer(obj) or array._cuda(obj) or (hasattr(obj, "__dlpack__") and array._dlpack(obj))):
            return None
        return array

    def release(self) -> None:
        """Lets go of the buffer; the object is then free to change its size."""
        held, self._held = self._held, None
        if isinstance(held, _Buffer):
            _release_buffer(ctypes.byref(held))

    def __del__(self) -> None:
        self.release()

    def _tensor(self, tensor: Any) -> None:
        self.device = str(tensor.device)
        self.on_host = tensor.device.type == "cpu"
        self.on_gpu = tensor.device.type == "cuda"
        if not (self.on_host or self.on_gpu) or "strided" not in str(tensor.layout):
            self.contiguous = False  # Sparse tensors have no one place; memory of other devices is not looked at.
            return
        if self.on_gpu:
            self.gpu = tensor.device.index
        self.unresolved = any(getattr(tensor, name, bool)() for name in ("is_conj", "is_neg"))
        self.contiguous = tensor.is_contiguous() and not self.unresolved
        self.bytes = tensor.numel() * tensor.element_size()
        self.address = tensor.data_ptr()
        self.kind = {"torch.int64": "i8", "torch.int32": "i4", "torch.uint64": "u8", "torch.uint32": "u4"}.get(
            str(tensor.dtype)
        )

    def _buffer(self, obj: Any) -> bool:
        buffer = _Buffer()
        try:
            _get_buffer(obj, ctypes.byref(buffer), _FULL_READ_ONLY)
        except (TypeError, BufferError, ValueError):
            return self._numpy_without_buffer(obj)
        self._held = buffer
        self.address = buffer.buf or 0
        self.bytes = buffer.len
        self.readonly = bool(buffer.readonly)
        code = (buffer.format or b"B").decode().lstrip("@=<")
        if "O" in code:
            self.release()
            raise TypeError("an array of Python objects has no bytes of its own to store; store numbers")
        self.kind = _KINDS.get((code, buffer.itemsize))
        self.contiguous = bool(_py.PyBuffer_IsContiguous(ctypes.byref(buffer), ctypes.c_char(b"C")))
        return True

    def _numpy_without_buffer(self, obj: Any) -> bool:
        # Types that the buffer protocol has no letter for, such as ml_dtypes' bfloat16.
        described = getattr(obj, "__array_interface__", None)
        if not isinstance(described, dict):
            return False
        self.address, self.readonly = described["data"]
        self.bytes = obj.nbytes
        self.contiguous = described.get("strides") is None
        return True

    def _cuda(self, obj: Any) -> bool:
        try:
            described = getattr(obj, "__cuda_array_interface__", None)
        except (RuntimeError, TypeError, ValueError):  # What some say of an array that is on the CPU.
            return False
        if not isinstance(described, dict):
            return False
        self.on_host, self.on_gpu, self.device = False, True, "a GPU"  # Which one, the driver knows.
        if described.get("mask") is not None:
            raise ValueError(f"the {type(obj).__name__} has a mask, which would not be stored; pass it without")
        address, self.readonly = described["data"]
        self.address = address or 0
        item = int(described["typestr"][2:])
        self.bytes, self.contiguous = _packed(described["shape"], described.get("strides"), item)
        return True

    def _dlpack(self, obj: Any) -> bool:
        device_type, device_id = (int(part) for part in obj.__dlpack_device__())
        self.on_host, self.on_gpu = device_type in _DL_HOST, device_type == _DL_CUDA
        if self.on_gpu:
            self.gpu, self.device = device_id, f"cuda:{device_id}"
        elif not self.on_host:
            self.device = f"DLPack device {device_type}:{device_id}"
            return True
        try:
            # Without a stream, so that what is still on its way to the memory comes before whatever is queued next.
            capsule = obj.__dlpack__()
        except BufferError as error:  # It is read-only, for one.
            raise ValueError(f"the {type(obj).__name__} refuses its bytes: {error}") from error
        tensor = ctypes.cast(_capsule_pointer(capsule, b"dltensor"), ctypes.POINTER(_DLTensor)).contents
        axes = range(tensor.ndim)
        strides = [tensor.strides[axis] for axis in axes] if tensor.strides else None
        count, self.contiguous = _packed([tensor.shape[axis] for axis in axes], strides, 1)
        self.bytes = count * ((tensor.bits * tensor.lanes + 7) // 8)
        self.address = (tensor.data or 0) + tensor.byte_offset
        self.pinned = _DL_HOST.get(device_type, False)
        if tensor.lanes == 1 and tensor.bits in (32, 64) and tensor.code in (0, 1):
            self.kind = f"{'iu'[tensor.code]}{tensor.bits // 8}"
        self._held = capsule
        return True
