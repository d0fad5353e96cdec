"""The backends of the wheel beside the native files: NIXL's plugins and object stores, on the real library and a real server."""

import json
import subprocess
import sys
import time

import hicache
import numpy as np
import pytest
from conftest import FakePool, keys_of, slots_of

PLUGINS = ("GDS_MT", "gds", "3FS", "POSIX", "OBJ")


def stores_and_loads(storage, pool):
    pages = list(range(10))
    expected = pool.fill(pages, 1)
    assert storage.batch_exists(keys_of(pages)) == 0
    assert storage.batch_set_v1(keys_of(pages), slots_of(pages)) == [True] * 10
    assert storage.batch_exists(keys_of(range(12))) == 10
    pool.wipe()
    assert storage.batch_get_v1(keys_of(range(12)), slots_of(range(20, 32))) == [True] * 10 + [False] * 2
    assert [pool.bytes(page) for page in range(20, 30)] == expected


@pytest.mark.parametrize("settings", [{"use_aio": "true"}, {"use_uring": "true"}, {}], ids=str)
@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_posix_of_nixl(backend, nixl, settings, io):
    pool = FakePool()
    storage = backend(pool, backend="nixl:POSIX", io=io, nixl_posix=settings, **nixl)
    stores_and_loads(storage, pool)
    assert storage._store.backend == "nixl:POSIX"
    # What it wrote is read without it.
    storage.close()
    native = backend(pool, backend="posix-pread", io=io)
    assert native.batch_exists(keys_of(range(12))) == 10


def test_the_form_of_sglangs_own_connector(backend, nixl):
    pool = FakePool()
    plugin = {"posix": {"active": True, "use_uring": "true"}, "gds": {"active": "false"}}
    storage = backend(pool, plugin=plugin, use_direct_io=False, **nixl)
    assert storage._store.backend == "nixl:POSIX"
    stores_and_loads(storage, pool)


def test_nixl_by_the_connector(tmp_path, nixl):
    with hicache.HiCacheNixl(file_path=tmp_path, file_plugin="posix", capacity_bytes="64MiB", **nixl) as connector:
        assert connector.backend == "nixl:POSIX"
        value, target = np.arange(1000.0), np.zeros(1000)
        assert connector.set("k", value) is True
        assert connector.get("k", target) is target and (target == value).all()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_without_the_wheel_it_is_said_where_it_was_looked_for(tmp_path, plugin):
    # In a process of its own: the loader finds by its name what was loaded once.
    program = "import sys, hicache; hicache.HiCacheNixl(sys.argv[1], sys.argv[2], nixl_obj={'bucket': 'b'})"
    command = [sys.executable, "-c", program, str(tmp_path), plugin]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1
    own = [path for path in sys.path if path.endswith("site-packages")]
    said = answer.stderr.splitlines()[-1]
    assert f"nixl:{plugin.upper()}" in said, said
    assert any(path in said for path in own) or plugin.upper().startswith("GDS"), said


@pytest.mark.parametrize("plugin", ["GDS_MT", "GDS"])
def test_plugins_for_gpus_are_probed_by_this_python(tmp_path, nixl, plugin):
    """Without a GPU they are refused before a helper is started; the command that would be is this Python's."""
    begun = time.monotonic()
    with pytest.raises((OSError, ValueError)) as error:
        hicache.HiCacheNixl(file_path=tmp_path, file_plugin=plugin, **nixl)
    assert "no helper" not in str(error.value)
    assert time.monotonic() - begun < 20


def test_the_command_looks_where_python_does(tmp_path, nixl):
    command = [sys.executable, "-m", "hicache", "probe", "--json", "--dir", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    reports = {each["backend"]: each for each in json.loads(answer.stdout)["directories"][0]["backends"]}
    own = next(path for path in sys.path if path.endswith("site-packages"))
    assert own in json.dumps(reports["nixl:POSIX"]), reports["nixl:POSIX"]
    command += ["--set", f"nixl.site_packages={nixl['nixl']['site_packages']}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    reports = {each["backend"]: each for each in json.loads(answer.stdout)["directories"][0]["backends"]}
    assert reports["nixl:POSIX"]["verdict"] == "usable", reports["nixl:POSIX"]


def test_an_object_store(backend, object_store):
    pool = FakePool()
    storage = backend(pool, backend="obj-s3", capacity_bytes=None, obj_s3=object_store["obj_s3"])
    stores_and_loads(storage, pool)
    assert storage.clear() is True
    assert storage.batch_exists(keys_of(range(12))) == 0


def test_an_object_store_by_nixl(backend, nixl, object_store):
    pool = FakePool()
    storage = backend(pool, backend="nixl:OBJ", capacity_bytes=None, nixl_obj=object_store["nixl_obj"], **nixl)
    stores_and_loads(storage, pool)


def test_two_servers_share_a_bucket_behind_their_disks(backend, object_store, tmp_path):
    settings = {"backend": "tiered", "tiered": {"near": "posix-pread"}, "obj_s3": object_store["obj_s3"]}
    pool, other_pool = FakePool(), FakePool()
    first = backend(pool, storage_dir=tmp_path / "first", **settings)
    stores_and_loads(first, pool)
    first.close()  # It waits for what is on its way.
    other = backend(other_pool, storage_dir=tmp_path / "second", **settings)
    expected = pool.fill(range(10), 1)
    assert other.batch_exists(keys_of(range(12))) == 10
    assert other.batch_get_v1(keys_of(range(10)), slots_of(range(10))) == [True] * 10
    assert [other_pool.bytes(page) for page in range(10)] == expected


def test_a_bucket_that_is_not_there(backend, object_store):
    wrong = {**object_store["obj_s3"], "bucket": "nosuchbucket"}
    with pytest.raises((OSError, ValueError), match="nosuchbucket"):
        backend(FakePool(), backend="obj-s3", obj_s3=wrong)


def test_a_secret_is_in_no_error_and_no_log(backend, nixl, caplog):
    wrong = {"bucket": "b", "endpoint_override": "http://127.0.0.1:1", "access_key": "a", "secret_key": "hunter2"}
    with caplog.at_level("DEBUG"), pytest.raises((OSError, ValueError)) as error:
        backend(FakePool(), backend="nixl:OBJ", nixl_obj=wrong, **nixl)
    assert "hunter2" not in str(error.value) and "hunter2" not in caplog.text
