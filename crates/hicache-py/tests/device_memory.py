"""Memory of a GPU that is not there: the library that stands in for libcuda, and objects over its memory as torch, CuPy
and JAX have them. Only for a process that the library was given to (`test_devices.py`)."""

import ctypes
import types

from hicache._arrays import _DLTensor

_u64, _pointer = ctypes.c_uint64, ctypes.c_void_p
_ALIGNMENT = 4096
_NAME = ctypes.c_char_p(b"dltensor")
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.argtypes = [_pointer, ctypes.c_char_p, _pointer]
_new_capsule.restype = ctypes.py_object


class Driver:
    """The driver, as a library of a GPU's arrays calls it."""

    def __init__(self):
        self._library = ctypes.CDLL("libcuda.so")
        self.call("cuInit", 0)

    def call(self, name, *arguments):
        code = getattr(self._library, name)(*arguments)
        assert code == 0, f"{name} answered {code}"

    def on(self, device, name, *arguments):
        """A call with the context of a device."""
        context = _pointer()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxPushCurrent_v2", context)
        try:
            self.call(name, *arguments)
        finally:
            self.call("cuCtxPopCurrent_v2", ctypes.byref(_pointer()))

    def stream(self, device=0):
        stream = _pointer()
        self.on(device, "cuStreamCreate", ctypes.byref(stream), 1)
        return stream


class Memory:
    """Bytes on a device. What stands in for it is memory of this process, so that a test can look without the driver."""

    def __init__(self, driver, data, device=0, pinned=False):
        self.driver, self.bytes, self.device = driver, len(data), device
        self._start, name = _u64(), "cuMemHostAlloc" if pinned else "cuMemAlloc_v2"
        size = ctypes.c_size_t(len(data) + _ALIGNMENT)
        driver.on(device, name, ctypes.byref(self._start), size, *([0] if pinned else []))
        self.address = -(-self._start.value // _ALIGNMENT) * _ALIGNMENT
        ctypes.memmove(self.address, bytes(data), len(data))

    def look(self, start=0, end=None):
        return ctypes.string_at(self.address + start, (self.bytes if end is None else end) - start)

    def free(self):
        self.driver.on(self.device, "cuMemFree_v2", self._start)

    def write_later(self, stream, data):
        """What a kernel does: it happens when somebody waits for the stream."""
        self._source = ctypes.create_string_buffer(bytes(data), len(data))
        source = _u64(ctypes.addressof(self._source))
        size = ctypes.c_size_t(len(data))
        self.driver.on(self.device, "cuMemcpyAsync", _u64(self.address), source, size, stream)


class Tensor:
    """A part of it, as torch shows it."""

    layout, dtype = "torch.strided", "torch.uint8"

    def __init__(self, memory, start=0, end=None, device=None, contiguous=True):
        self.memory, self.start, self.end = memory, start, memory.bytes if end is None else end
        index = memory.device if device is None else device

        class Device(types.SimpleNamespace):
            __str__ = lambda self: f"cuda:{index}"  # noqa: E731

        self.device = Device(type="cuda", index=index)
        self._contiguous = contiguous

    def data_ptr(self):
        return self.memory.address + self.start

    def element_size(self):
        return 1

    def numel(self):
        return self.end - self.start

    def is_contiguous(self):
        return self._contiguous

    def look(self):
        return self.memory.look(self.start, self.end)


class CudaArray:
    """The same with CUDA's array interface: CuPy, Numba."""

    def __init__(self, memory, start=0, end=None, readonly=False, strides=None, mask=None):
        self.memory, self.start, self.end = memory, start, memory.bytes if end is None else end
        self.described = {
            "shape": (self.end - self.start,),
            "typestr": "|u1",
            "data": (memory.address + self.start, readonly),
            "strides": strides,
            "version": 3,
            "stream": None,
            "mask": mask,
        }

    __cuda_array_interface__ = property(lambda self: self.described)
    look = Tensor.look


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _DLTensor), ("context", _pointer), ("deleter", _pointer)]


class DlpackArray:
    """The same with DLPack: JAX, TensorFlow."""

    def __init__(self, memory, start=0, end=None, device_type=2):
        self.memory, self.start, self.end = memory, start, memory.bytes if end is None else end
        self._shape = (ctypes.c_int64 * 1)(self.end - self.start)
        self._managed = _Managed(
            _DLTensor(memory.address, device_type, memory.device, 1, 1, 8, 1, self._shape, None, self.start)
        )

    def __dlpack_device__(self):
        return (self._managed.tensor.device_type, self._managed.tensor.device_id)

    def __dlpack__(self, stream=None):
        assert stream is None
        return _new_capsule(ctypes.addressof(self._managed), _NAME, None)

    look = Tensor.look


KINDS = [Tensor, CudaArray, DlpackArray]
