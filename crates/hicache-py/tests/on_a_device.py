"""Tensors of a GPU, with a library that stands in for libcuda. `test_devices.py` runs these in processes of their own."""

import gc
import os
import threading

import hicache
import numpy as np
import pytest
from device_memory import KINDS, CudaArray, DlpackArray, Driver, Memory, Tensor

PAGE = 64 << 10
#: What fits the engines as it lies, and what does not.
PLACES = [(0, PAGE), (512, 512 + 12_345)]


@pytest.fixture(scope="module")
def driver():
    return Driver()


@pytest.fixture
def connector(tmp_path):
    made = []

    def make(name="store", device=0, **more):
        one = hicache.HiCacheNixl(tmp_path / name, device=device, capacity_bytes="64MiB", **more)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def pattern(number, length=PAGE):
    return np.random.default_rng(number).bytes(length)


def test_this_python_probes_it(tmp_path):
    """The helper is this interpreter, so where the package is found, the probe is."""
    reports = hicache.probe(tmp_path, device=0)["directories"][0]["backends"]
    seen = next(report for report in reports if report["backend"] == "gds")
    assert seen["verdict"] == "usable", seen
    if "STANDIN_DIRECT" not in os.environ:
        assert "through pinned host memory" in seen["reason"], seen
    elif "nvidia-fs" not in seen["reason"]:
        pytest.skip(f"went without: direct I/O in {tmp_path}: {seen['reason']}")


def test_the_backend_and_the_device(connector, caplog, tmp_path):
    probed = hicache.probe(tmp_path, device=0)["directories"][0]["backends"]
    reason = next(report["reason"] for report in probed if report["backend"] == "gds")
    # In a directory that is made only now.
    storage = connector()
    assert (storage.backend, storage.device) == ("gds", 0)
    storage.set("k", b"of the host")
    assert ("no GPUDirect Storage" in caplog.text) == ("nvidia-fs" not in reason), caplog.text
    with pytest.raises(OSError, match='"posix-pread".*Device'):
        connector("other", file_plugin="posix-pread")
    with pytest.raises(OSError, match="device 7 does not exist"):
        connector("seventh", device=7)


@pytest.mark.parametrize("place", PLACES, ids=["aligned", "unaligned"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_set_get_overwrite_exists(connector, driver, kind, place):
    storage = connector()
    source, target = Memory(driver, pattern(1)), Memory(driver, b"\xee" * PAGE)
    value, read = kind(source, *place), kind(target, *place)
    assert not storage.exists("k") and storage.get("k", read) is None
    assert storage.set("k", value) is True and storage.exists("k")
    assert storage.get("k", read) is read
    start, end = place
    assert target.look() == b"\xee" * start + source.look(start, end) + b"\xee" * (PAGE - end)
    other = kind(Memory(driver, pattern(2)), *place)
    assert storage.set("k", other) is True and storage.get("k", read).look() == value.look()
    assert storage.set("k", other, overwrite=True) is True and storage.get("k", read).look() == other.look()
    storage.delete("k")
    assert storage.get("k", read) is None


def test_a_batch_of_both_memories(connector, driver):
    storage = connector()
    kinds = [Tensor, None, CudaArray, bytes, DlpackArray, None]
    contents = [pattern(number, PAGE) for number in range(6)]

    def made(kind, content):
        if kind is None:
            return np.frombuffer(bytearray(content), dtype=np.uint8)
        return bytearray(content) if kind is bytes else kind(Memory(driver, content))

    def bytes_of(value):
        return value.look() if hasattr(value, "look") else bytes(value)

    keys = [f"key{number}" for number in range(6)]
    assert storage.batch_set(keys, [made(kind, content) for kind, content in zip(kinds, contents)]) is True
    # Each into the other memory.
    targets = [made(kind, bytes(PAGE)) for kind in reversed(kinds)]
    answers = storage.batch_get([*keys, "absent"], [*targets, made(Tensor, bytes(PAGE))])
    assert answers[-1] is None and all(answer is target for answer, target in zip(answers, targets))
    assert [bytes_of(target) for target in targets] == contents


def test_memory_of_another_device(connector, driver):
    storage, other = connector(), connector("other", device=1)
    far = Memory(driver, pattern(1), device=1)
    for value in (Tensor(far), DlpackArray(far)):
        with pytest.raises(ValueError, match="cuda:1.*device=0"):
            storage.set("k", value)
    # These don't say where they are, or say it wrong: the driver knows.
    for value in (CudaArray(far), Tensor(far, device=0)):
        with pytest.raises(ValueError, match="memory of device 1, not of 0"):
            storage.set("k", value)
        assert storage.register(value) is False
    assert not storage.exists("k") and len(storage._arrays) == 0
    read = Memory(driver, bytes(PAGE), device=1)
    assert other.set("k", Tensor(far)) is True and other.get("k", Tensor(read)) is not None
    assert read.look() == far.look()


def test_addresses_that_are_not_the_devices(connector, driver):
    storage = connector()
    array = np.zeros(PAGE, dtype=np.uint8)
    posing = CudaArray(Memory(driver, pattern(1)))
    posing.described["data"] = (array.ctypes.data, False)
    with pytest.raises(ValueError, match="CUDA does not know them"):
        storage.set("k", posing)
    with pytest.raises(ValueError, match="memory of the host, not of a device"):
        storage.set("k", CudaArray(Memory(driver, pattern(1), pinned=True)))
    with pytest.raises(ValueError, match="their allocation ends at"):
        storage.set("k", CudaArray(Memory(driver, pattern(1)), end=2 * PAGE))
    assert not storage.exists("k")


def test_memory_that_was_freed(connector, driver, caplog):
    storage = connector()
    memory = Memory(driver, pattern(1))
    value = Tensor(memory)
    assert storage.register(value) is True and storage.set("k", value) is True
    kept = Tensor(Memory(driver, bytes(PAGE)))
    memory.free()
    # In one batch with what is still there.
    assert storage.batch_get(["k", "k"], [value, kept]) == [None, kept]
    assert kept.look() == pattern(1)
    assert storage.set("l", value) is False and not storage.exists("l")
    assert "is it still there?" in caplog.text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_kernel_that_still_writes_comes_first(connector, driver, kind):
    storage, stream = connector(), driver.stream()
    memory = Memory(driver, pattern(1))
    memory.write_later(stream, pattern(2))
    assert storage.set("k", kind(memory)) is True
    read = Memory(driver, bytes(PAGE))
    read.write_later(stream, pattern(3))  # As `torch.zeros` does.
    assert storage.get("k", kind(read)) is not None
    driver.on(0, "cuCtxSynchronize")
    assert read.look() == pattern(2)


def test_a_device_that_fails_is_a_miss(connector, driver, caplog):
    storage, value = connector(), Tensor(Memory(driver, pattern(1)))
    assert storage.register(value) is True
    driver._library.standin_fail(b"cuCtxSynchronize", 1, 700)
    assert storage.set("k", value) is False and not storage.exists("k")
    assert "cuCtxSynchronize answered 700" in caplog.text
    assert storage.set("k", value) is True


def test_registered_once_and_held_weakly(connector, driver):
    storage = connector()
    memory = Memory(driver, pattern(1))
    value = Tensor(memory)
    assert storage.register(value) is True and storage.register(value) is True
    assert storage.set("k", value) is True and len(storage._arrays) == 1
    del value
    gc.collect()
    assert len(storage._arrays) == 0
    memory.free()
    again = Tensor(Memory(driver, pattern(2)))  # Likely at the same place.
    assert storage.set("l", again) is True and storage.deregister(again) is True
    read = Tensor(Memory(driver, bytes(PAGE)))
    assert storage.get("l", read).look() == pattern(2)


def test_an_object_without_weak_references(connector, driver):
    class Slotted:
        __slots__ = ("described", "memory")

        def __init__(self, memory):
            self.memory, self.described = memory, CudaArray(memory).described

        __cuda_array_interface__ = property(lambda self: self.described)

    class Watched:
        """A store, and what is registered in it."""

        def __init__(self, store):
            self._inner, self.handles = store, []

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def register(self, *arguments):
            self.handles.append(self._inner.register(*arguments))
            return self.handles[-1]

        def deregister(self, handle):
            self.handles.remove(handle)
            return self._inner.deregister(handle)

    storage = connector()
    watched = storage._arrays._store = Watched(storage._store)
    source, target = Memory(driver, pattern(1)), Memory(driver, bytes(PAGE))
    assert storage.register(Slotted(source)) is False
    assert storage.set("k", Slotted(source)) is True
    assert storage.get("k", Slotted(target)) is not None and target.look() == source.look()
    assert len(storage._arrays) == 0 and watched.handles == []
    assert storage._arrays._stage is None, "the CPU has no way to that memory"


def test_what_can_not_be_moved(connector, driver):
    storage, memory = connector(), Memory(driver, pattern(1))
    with pytest.raises(ValueError, match="not contiguous"):
        storage.set("k", Tensor(memory, contiguous=False))
    with pytest.raises(ValueError, match="not contiguous"):
        storage.set("k", CudaArray(memory, end=PAGE // 2, strides=(2,)))
    with pytest.raises(ValueError, match="has a mask"):
        storage.set("k", CudaArray(memory, mask=memory))
    with pytest.raises(ValueError, match="no bytes"):
        storage.set("k", Tensor(memory, end=0))
    with pytest.raises(ValueError, match="read-only"):
        storage.get("k", CudaArray(memory, readonly=True))
    assert storage.set("k", CudaArray(memory, end=PAGE // 2, strides=(1,), readonly=True)) is True


def test_a_value_that_was_damaged_is_a_miss(connector, driver, tmp_path):
    storage = connector(segment_bytes="1MiB")
    assert storage.set("k", Tensor(Memory(driver, pattern(1)))) is True
    storage.close()
    for segment in (tmp_path / "store").rglob("seg-*"):
        stored = segment.read_bytes()
        at = stored.find(pattern(1))
        if at >= 0:
            with open(segment, "r+b") as file:
                file.seek(at + 1000)
                file.write(bytes([stored[at + 1000] ^ 1]))
    assert connector().get("k", Tensor(Memory(driver, bytes(PAGE)))) is None


def test_three_threads(connector, driver):
    storage, wrong = connector(), []

    def work(own):
        value, read = Tensor(Memory(driver, bytes(PAGE))), Tensor(Memory(driver, bytes(PAGE)))
        for turn in range(10):
            content = pattern(10 * own + turn)
            value = Tensor(Memory(driver, content))
            if not storage.set(f"{own}.{turn}", value) or storage.get(f"{own}.{turn}", read) is not read:
                wrong.append((own, turn))
            elif read.look() != content:
                wrong.append((own, turn, "bytes"))

    threads = [threading.Thread(target=work, args=(own,)) for own in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
