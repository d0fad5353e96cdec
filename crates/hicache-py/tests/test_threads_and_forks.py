"""Threads and forks at the worst moment: nothing hangs, and memory in use stays known."""

import contextlib
import gc
import multiprocessing
import threading

import hicache
import numpy as np
import pytest
from conftest import FakePool, keys_of, slots_of


@pytest.fixture
def connector(tmp_path):
    with hicache.HiCacheNixl(file_path=str(tmp_path), capacity_bytes="64MiB") as one:
        yield one


@contextlib.contextmanager
def held_elsewhere(*locks):
    """Another thread has these locks, as in the middle of a call."""
    taken, over = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            taken.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_a_child(work):
    """What `work` answers in a forked child."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(work()))
    child.start()
    try:
        assert here.poll(20), "the child hangs"
        return here.recv()
    finally:
        child.kill()
        child.join()


def said(use):
    try:
        return str(use())
    except RuntimeError as error:
        return str(error)


def test_a_fork_in_the_middle_of_a_connectors_call_is_refused(connector):
    tensors = [np.ones(100), np.ones(200)]
    assert connector.batch_set(["a", "b"], tensors)

    def work():
        tensors.pop()  # It was registered.
        gc.collect()
        uses = (
            lambda: connector.set("k", np.ones(3)),
            lambda: connector.set("k", b"abc"),
            lambda: connector.get("a", tensors[0]),
            lambda: connector.exists("a"),
            lambda: connector.deregister(tensors[0]),
        )
        return [said(use) for use in uses]

    with held_elsewhere(connector._arrays._lock, connector._reports._lock):
        answers = in_a_child(work)
    assert all("has forked" in answer for answer in answers[:4]), answers
    assert answers[4] == "False"
    assert connector.set("k", b"abc") is True, "the parent goes on"


def test_a_fork_in_the_middle_of_a_backends_call_is_a_miss(backend):
    storage = backend(FakePool())
    storage.batch_set_v1(keys_of([0]), slots_of([0]))

    def work():
        return (
            storage.batch_exists(keys_of([0])),
            storage.batch_get_v1(keys_of([0]), slots_of([0])),
            storage.batch_set_v1(keys_of([1]), slots_of([1])),
        )

    with held_elsewhere(storage._reports._lock, storage._counters._lock):
        assert in_a_child(work) == (0, [False], [False])
    assert storage.batch_exists(keys_of([0])) == 1


def test_a_tensor_that_goes_waits_for_no_lock(connector):
    """Python collects garbage anywhere: also where another store's lock is held."""
    tensors = [np.ones(1000)]
    connector.set("k", tensors[0])
    with connector._arrays._lock:
        thread = threading.Thread(target=tensors.clear)
        thread.start()
        thread.join(10)
        waits = thread.is_alive()
    thread.join()
    assert not waits, "a thread whose garbage was collected waited for the lock of a call"
    assert len(connector._arrays) == 0


def test_a_tensor_that_goes_in_the_middle_of_a_call_changes_nothing_under_it(connector):
    tensors = [np.ones(100) for _ in range(3)]
    connector.batch_set(["a", "b", "c"], tensors)
    seen = 0
    with connector._arrays._lock:
        for _ in connector._arrays._held.items():
            tensors.clear()  # As the collector would, in the thread that has the lock.
            seen += 1
    assert seen == 3
    assert len(connector._arrays) == 0


class Between:
    """A native store, with something done before each store."""

    def __init__(self, store, before):
        self._inner, self._before, self.deregistered = store, before, []

    def store(self, *arguments, **named):
        self._before()
        return self._inner.store(*arguments, **named)

    def deregister(self, handle):
        self.deregistered.append(handle)
        return self._inner.deregister(handle)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def test_memory_that_is_let_go_of_in_the_middle_of_a_call_stays_known_to_its_end(connector):
    value = np.arange(1000)
    between = Between(connector._arrays._store, lambda: connector.deregister(value))
    connector._arrays._store = between
    assert connector.set("k", value) is True, "deregister took the memory of a call that is under way"
    assert len(connector._arrays) == 0 and len(between.deregistered) == 1
    assert (connector.get("k", np.empty_like(value)) == value).all()


def test_a_close_in_the_middle_of_a_call_is_named(connector):
    connector._arrays.close()  # As `close` of another thread does, after this one's look whether it is open.
    for value in (np.ones(3), b"abc"):
        with pytest.raises(RuntimeError, match="the connector is closed"):
            connector.set("k", value)


def test_a_stage_that_was_not_registered_is_not_used(connector):
    failures = [OSError("no more memory")]

    class Failing(Between):
        def register(self, *arguments):
            if failures:
                raise failures.pop()
            return self._inner.register(*arguments)

    connector._arrays._store = Failing(connector._arrays._store, lambda: None)
    with pytest.raises(OSError, match="no more memory"):
        connector.set("k", b"abc")
    assert connector.set("k", b"abc") is True
    assert connector.set("l", bytes(2 << 20)) is True, "a larger stage takes the place of the first"
