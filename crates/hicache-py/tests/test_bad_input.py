"""What goes wrong is said so that it can be mended, and nothing is raised into SGLang's threads."""

import logging
import multiprocessing
import os
import subprocess
import sys

import pytest
from conftest import STANDIN, FakePool, keys_of, slots_of, storage_config


def refused(storage_dir, **more):
    from hicache.sglang import HiCacheRust

    with pytest.raises((ValueError, OSError, NotImplementedError)) as error:
        storage = HiCacheRust(storage_config(storage_dir, **more))
        storage.register_mem_pool_host(FakePool())
    return str(error.value)


def test_settings_are_refused_by_name(tmp_path):
    text = refused(tmp_path, capacity_byte="1GiB")
    assert "capacity_byte" in text and "`capacity_bytes`" in text
    text = refused(tmp_path, posix_uring={"dept": 4})
    assert "`posix_uring.depth`" in text
    assert "capacity_bytes" in refused(tmp_path, capacity_bytes="much")
    assert "`posix-uring`" in refused(tmp_path, backend="posix-urin")
    assert "posix-pread" in refused(tmp_path, backend="nixl")
    assert "namespace.dtype" in refused(tmp_path, namespace={"dtype": "int8"})
    assert "tp_lcm_size" in refused(tmp_path, should_split_heads=True, tp_lcm_size=4)


def test_an_extra_config_that_is_no_object(tmp_path):
    from hicache.sglang import HiCacheRust

    config = storage_config(tmp_path)
    for wrong in ('{"storage_dir": ', ["a"]):
        config.extra_config = wrong
        with pytest.raises(ValueError, match="must be a JSON object"):
            HiCacheRust(config)


def test_a_directory_that_can_not_be_written():
    text = refused("/proc/hicache")
    assert "/proc" in text


def test_an_anchor_without_pages_is_refused_by_name(backend):
    """DeepSeek-V4's: its KV pool only counts, and the pages lie in pools beside it."""

    class Anchor:
        page_size, layout = 16, "page_first"

    with pytest.raises(ValueError, match=r"kv \(Anchor\) has no pages of its own"):
        backend().register_mem_pool_host(Anchor())


def test_sglangs_own_fields_are_left_to_it(backend):
    storage = backend(FakePool(), allocator="shm", prefetch_threshold=64, tp_lcm_size=1)
    assert storage.batch_exists(keys_of([0])) == 0


def test_a_freed_pool_is_a_miss(backend, caplog):
    pool = FakePool()
    storage = backend(pool)
    storage.batch_set_v1(keys_of([0]), slots_of([0]))
    pool.kv_buffer = None
    assert storage.batch_get_v1(keys_of([0]), slots_of([0])) == [False]
    assert storage.batch_set_v1(keys_of([1]), slots_of([1])) == [False]
    assert "counts as a miss" in caplog.text
    assert storage.counters()["failed_calls"] == 2


def test_a_replaced_pool_is_a_miss(backend, caplog):
    import numpy as np

    pool = FakePool()
    storage = backend(pool)
    pool.kv_buffer = np.zeros_like(pool.kv_buffer)
    assert storage.batch_set_v1(keys_of([0]), slots_of([0])) == [False]
    assert "not in registered memory" in caplog.text


def test_lengths_that_differ(backend, caplog):
    storage = backend(FakePool())
    assert storage.batch_get_v1(keys_of([0, 1]), slots_of([0])) == [False, False]
    assert "2 keys and 16 slots" in caplog.text
    assert storage.batch_get(keys_of([0, 1]), [bytearray(4)]) == [None, None]
    assert storage.batch_set(keys_of([0, 1]), [bytearray(4)]) is False


@pytest.mark.parametrize("keys", [None, [None], [1], [""], ["x" * 600]])
def test_keys_that_are_none(backend, keys):
    storage = backend(FakePool())
    count = len(keys) if keys else 0
    assert storage.batch_exists(keys) == 0
    assert storage.batch_get_v1(keys, slots_of([0])) == [False] * count
    assert storage.batch_set_v1(keys, slots_of([0])) == [False] * count
    assert storage.exists(keys) is False


def test_before_a_pool_is_there(backend):
    storage = backend()
    assert storage.batch_exists(keys_of([0])) == 0
    assert storage.batch_get_v1(keys_of([0]), slots_of([0])) == [False]
    assert storage.clear() is False
    assert storage.batch_exists_v2(keys_of([0])).kv_hit_pages == 0


def test_one_cause_is_one_line(backend, caplog):
    storage = backend(FakePool())
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        for _ in range(50):
            storage.batch_get_v1(keys_of([0, 1]), slots_of([0]))
    assert len(caplog.records) == 1


def _in_a_child(storage, pipe):
    pipe.send(
        (
            storage.batch_exists(keys_of([0])),
            storage.batch_get_v1(keys_of([0]), slots_of([0])),
            storage.batch_set_v1(keys_of([5]), slots_of([0])),
        )
    )


def test_a_fork_is_refused_and_the_parent_goes_on(backend):
    pool = FakePool()
    storage = backend(pool)
    expected = pool.fill([0], 1)
    storage.batch_set_v1(keys_of([0]), slots_of([0]))
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_a_child, args=(storage, there))
    child.start()
    assert here.poll(30), "the child hangs"
    assert here.recv() == (0, [False], [False])
    child.join(30)
    assert child.exitcode == 0
    pool.wipe()
    assert storage.batch_get_v1(keys_of([0]), slots_of([0])) == [True]
    assert [pool.bytes(0)] == expected


def python(*arguments, path=()):
    """Another interpreter with the package and what is in `path`, so without the stand-in."""
    import hicache

    package = os.path.dirname(os.path.dirname(hicache.__file__))
    environment = {**os.environ, "PYTHONPATH": ":".join([*path, package])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def test_without_sglang():
    said = python("-c", "import hicache, hicache.sglang")
    assert said.returncode != 0 and "0.5.3 or later" in said.stderr


def test_an_sglang_without_the_dynamic_backend(tmp_path):
    import shutil

    shutil.copytree(STANDIN / "sglang", tmp_path / "sglang")
    factory = tmp_path / "sglang/srt/mem_cache/storage/backend_factory.py"
    factory.write_text("class StorageBackendFactory:\n    pass\n")
    said = python("-c", "import hicache.sglang", path=[str(tmp_path)])
    assert said.returncode != 0 and "the first release with it is 0.5.3" in said.stderr


def test_a_wheel_of_another_python(tmp_path):
    import shutil
    from pathlib import Path

    import hicache

    shutil.copytree(Path(hicache.__file__).parent, tmp_path / "hicache")
    for native in (tmp_path / "hicache").glob("_native*.so"):
        native.unlink()
    said = python("-c", "import hicache", path=[str(tmp_path)])
    assert said.returncode != 0 and "can't be loaded by this Python" in said.stderr
