"""HiCacheNixl, as its first README lists it."""

import array
import gc
import os
import time
import types

import hicache
import numpy as np
import pytest


@pytest.fixture
def connector(tmp_path):
    made = []

    def make(name="store", **more):
        more.setdefault("capacity_bytes", "64MiB")
        one = hicache.HiCacheNixl(file_path=str(tmp_path / name), **more)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def test_selection_order(connector, tmp_path):
    reports = {report["backend"]: report for report in hicache.probe(tmp_path)["directories"][0]["backends"]}
    first = next(name for name in ("posix-uring", "posix-pread") if reports[name]["verdict"] == "usable")
    assert connector("a").backend == first, reports
    assert connector("b", order="posix-pread,posix-uring").backend == "posix-pread"
    assert connector("c", file_plugin="posix-pread").backend == "posix-pread"
    assert connector("d", file_plugin="memory").backend == "memory"
    with pytest.raises(ValueError, match="did you mean `posix-pread`"):
        connector("f", file_plugin="posix-prea")


def test_an_array_of_objects_is_refused(connector):
    with pytest.raises(TypeError, match="array of Python objects"):
        connector().set("objects", np.array([{}, []], dtype=object))


class LazyTensor:
    """What torch's `x.conj()` is: the bytes of `x`, and a note."""

    device, layout, dtype = types.SimpleNamespace(type="cpu"), "torch.strided", "torch.complex64"

    def __init__(self, array, note):
        self._array, self._note = array, note
        self.data_ptr = lambda: array.ctypes.data
        self.element_size = lambda: array.itemsize
        self.numel = lambda: array.size
        self.is_contiguous = lambda: True
        self.is_conj = lambda: note == "conjugated"
        self.is_neg = lambda: note == "negated"


@pytest.mark.parametrize("note", ["conjugated", "negated"])
def test_a_tensor_that_is_not_its_bytes_is_refused(connector, note):
    storage = connector()
    with pytest.raises(ValueError, match="resolve_conj"):
        storage.set("k", LazyTensor(np.ones(4, dtype=np.complex64), note))
    assert storage.set("k", LazyTensor(np.ones(4, dtype=np.complex64), "")) is True


def _descriptors():
    for name in os.listdir("/proc/self/fd"):
        try:
            os.readlink(f"/proc/self/fd/{name}")
            yield name
        except FileNotFoundError:
            pass


def test_file_descriptors_closed_on_failure(connector, tmp_path):
    connector("first").close()
    before = len(list(_descriptors()))
    for number in range(10):
        directory = tmp_path / f"bad{number}"
        directory.mkdir()
        with pytest.raises((ValueError, OSError)):
            hicache.HiCacheNixl(file_path=str(directory), capacity_bytes="64KiB", page_bytes="64KiB")
        with pytest.raises((ValueError, OSError)):
            hicache.HiCacheNixl(file_path="/proc/nothing")
    one = hicache.HiCacheNixl(file_path=str(tmp_path / "good"), capacity_bytes="64MiB")
    assert one.set("k", np.ones(10)) is True
    assert one.set("k" * 600, np.ones(10)) is False
    one.close()
    gc.collect()
    for _ in range(100):  # The last threads of a store may be ending.
        if len(list(_descriptors())) <= before:
            break
        time.sleep(0.05)
    assert len(list(_descriptors())) <= before


def test_registration_by_memory_type(connector):
    storage = connector()
    memory = [np.ones(100), array.array("d", [1.0] * 100)]
    assert all(storage.register(each) for each in memory)
    assert len(storage._arrays) == 2
    assert all(storage.register(each) for each in memory) and len(storage._arrays) == 2, "registered twice"
    assert storage.deregister(memory[0]) is True
    assert storage.deregister(memory[0]) is False
    assert storage.register("text") is False
    assert storage.register(np.ones((4, 4)).T[::2]) is False


NUMERIC = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64 complex64 complex128".split()


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4, 5)])
def test_every_numeric_dtype(connector, dtype, shape):
    storage = connector()
    value = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    value = np.ascontiguousarray(value).reshape(shape) if shape else np.array(value, dtype=dtype)
    assert storage.set("k", value) is True
    loaded = np.empty(shape, dtype=dtype)
    assert storage.get("k", loaded) is loaded
    assert (loaded == value).all()


def test_mixed_single_and_batch(connector):
    storage = connector()
    values = [np.full((10, i + 1), i, dtype=np.float32) for i in range(6)]
    keys = [f"key{i}" for i in range(6)]
    assert storage.set(keys[0], values[0]) is True
    assert storage.batch_set(keys[1:], values[1:]) is True
    targets = [np.zeros_like(value) for value in values]
    assert storage.get(keys[3], targets[3]) is targets[3]
    answers = storage.batch_get([*keys[:3], "absent"], [*targets[:3], np.zeros(3)])
    assert answers[3] is None and all(a is b for a, b in zip(answers[:3], targets))
    assert all((target == value).all() for target, value in zip(targets[:4], values))
    assert sorted(storage.keys("key")) == keys
    assert storage.batch_exists([keys[0], "absent"]) == [True, False]


def test_overwrite(connector):
    storage = connector()
    old, new, read = np.zeros(4), np.ones(4), np.empty(4)
    storage.set("k", old)
    assert storage.set("k", new) is True
    assert (storage.get("k", read) == old).all()
    assert storage.set("k", new, overwrite=True) is True
    assert (storage.get("k", read) == new).all()


def test_delete_and_clear(connector):
    storage = connector()
    storage.batch_set(["a", "b"], [np.ones(4), np.ones(5)])
    storage.delete("a")
    storage.delete("a")
    assert not storage.exists("a") and storage.exists("b")
    storage.clear()
    assert not storage.exists("b") and storage.keys() == []


def test_values_survive_a_restart(connector):
    first = connector("same")
    first.set("k", np.arange(1000))
    first.close()
    read = np.zeros(1000, dtype=np.int64)
    assert (connector("same").get("k", read) == np.arange(1000)).all()


def test_a_missing_destination_is_none(connector):
    storage = connector()
    storage.set("k", np.ones(4))
    assert storage.get("k", None) is None
    assert storage.get("k") is None
    assert storage.batch_get(["k", "k"], [None, np.ones(4)])[0] is None


def test_another_length_is_none(connector, caplog):
    storage = connector()
    storage.set("k", np.ones(4))
    assert storage.get("k", np.ones(5)) is None
    assert "not loaded" in caplog.text


def test_a_temporary_tensor_is_not_kept_alive(connector):
    import weakref

    storage = connector()
    value = np.ones(1000)
    gone = weakref.ref(value)
    storage.set("k", value)
    assert len(storage._arrays) == 1
    del value
    gc.collect()
    assert gone() is None and len(storage._arrays) == 0


def test_memory_that_moved_is_registered_anew(connector):
    storage = connector()
    value = array.array("d", [1.0] * 1000)
    storage.set("k", value)
    value.extend([1.0] * 100_000)
    for i in range(len(value)):
        value[i] = i
    assert storage.set("l", value) is True
    read = np.empty(101_000)
    assert (storage.get("l", read) == np.arange(101_000)).all()


def test_many_registrations_stay_bounded(connector, monkeypatch):
    from hicache import _held

    monkeypatch.setattr(_held, "MOST", 4)
    storage = connector()
    values = [np.full(10, i) for i in range(20)]
    assert storage.batch_set([str(i) for i in range(20)], values)
    assert len(storage._arrays) <= 4
    read = np.empty(10, dtype=values[0].dtype)
    assert all((storage.get(str(i), read) == i).all() for i in range(20))


@pytest.mark.parametrize("make", [bytes, bytearray, lambda b: memoryview(bytearray(b)), lambda b: array.array("B", b)])
def test_the_buffer_protocol(connector, make):
    storage = connector()
    value = make(bytes(range(256)) * 33)
    assert storage.set("k", value) is True
    read = bytearray(len(value))
    assert storage.get("k", read) is read
    assert bytes(read) == bytes(value)


def test_dlpack(connector):
    class Exports:
        def __init__(self, inner):
            self.inner = inner

        def __dlpack_device__(self):
            return self.inner.__dlpack_device__()

        def __dlpack__(self, **more):
            return self.inner.__dlpack__(**more)

    storage = connector()
    assert storage.set("k", Exports(np.arange(100))) is True
    read = np.zeros(100, dtype=np.int64)
    assert storage.get("k", Exports(read)) is not None
    assert (read == np.arange(100)).all()


def test_dlpack_without_weak_references(connector):
    class Slotted:
        __slots__ = ("inner",)

        def __init__(self, inner):
            self.inner = inner

        def __dlpack_device__(self):
            return self.inner.__dlpack_device__()

        def __dlpack__(self):
            return self.inner.__dlpack__()

    storage = connector()
    assert storage.set("k", Slotted(np.arange(100))) is True
    read = np.zeros(100, dtype=np.int64)
    assert storage.get("k", Slotted(read)) is not None
    assert (read == np.arange(100)).all()


def test_dlpack_that_refuses(connector):
    class Refusing:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self):
            raise BufferError("the array is read-only")

    storage = connector()
    with pytest.raises(ValueError, match="the Refusing refuses its bytes: the array is read-only"):
        storage.set("k", Refusing())
    assert storage.register(Refusing()) is False


def test_bad_arguments_are_refused(connector):
    storage = connector()
    with pytest.raises(ValueError, match="2 keys and 1 tensors"):
        storage.batch_set(["a", "b"], [np.ones(3)])
    with pytest.raises(ValueError, match="1 keys and 2 tensors"):
        storage.batch_get(["a"], [np.ones(3), np.ones(3)])
    with pytest.raises(ValueError, match="not contiguous"):
        storage.set("a", np.ones((4, 4))[:, ::2])
    with pytest.raises(ValueError, match="no bytes"):
        storage.set("a", np.ones(0))
    with pytest.raises(ValueError, match="read-only"):
        storage.get("a", b"abc")
    with pytest.raises(TypeError, match="str"):
        storage.set("a", "text")


def test_a_closed_connector(connector):
    storage = connector()
    storage.close()
    storage.close()
    for use in (lambda: storage.set("a", np.ones(3)), lambda: storage.exists("a"), storage.clear):
        with pytest.raises(RuntimeError, match="closed"):
            use()
