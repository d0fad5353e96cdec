"""Tensors of a GPU: refused with the mend where there is none, moved with a library that stands in for libcuda."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hicache
import numpy as np
import pytest
from device_memory import KINDS, DlpackArray

HERE = Path(__file__).resolve().parent
GDS = HERE.parents[1] / "gds"


class InPlace:
    """Memory of nobody: what is refused is not looked at."""

    def __init__(self):
        self._array = np.ones(64, dtype=np.uint8)
        self.address, self.bytes, self.device = self._array.ctypes.data, 64, 0


def driver_is_installed():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_without_a_device_the_mend_is_said(tmp_path, kind):
    with hicache.HiCacheNixl(tmp_path, capacity_bytes="64MiB") as storage:
        assert storage.device is None
        for use in (lambda: storage.set("k", kind(InPlace())), lambda: storage.get("k", kind(InPlace()))):
            with pytest.raises(ValueError, match="is on (cuda:0|a GPU), and this store .* open it with device=0"):
                use()
        assert storage.register(kind(InPlace())) is False and not storage.exists("k")


def test_other_devices_are_refused_by_name(tmp_path):
    rocm = DlpackArray(InPlace(), device_type=10)
    with hicache.HiCacheNixl(tmp_path, capacity_bytes="64MiB") as storage:
        with pytest.raises(ValueError, match="DLPack device 10:0, which no backend moves"):
            storage.set("k", rocm)


def test_without_a_driver_the_reason_is_said(tmp_path):
    if driver_is_installed():
        pytest.skip("went without: a machine without a driver of NVIDIA's")
    with pytest.raises(OSError, match="posix-uring was skipped.*gds was skipped.*no CUDA driver"):
        hicache.HiCacheNixl(tmp_path / "auto", device=0)
    with pytest.raises(OSError, match='backend = "gds".*no CUDA driver: libcuda.so.1'):
        hicache.HiCacheNixl(tmp_path / "named", backend="gds", device=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", [-1, 256, "first"])
def test_a_device_that_is_no_number(tmp_path, device):
    with pytest.raises(ValueError, match="device"):
        hicache.HiCacheNixl(tmp_path, device=device)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A folder with what stands in for libcuda and for cuFile's library."""
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("went without: a C++ compiler for the libraries that stand in for NVIDIA's")
    folder = tmp_path_factory.mktemp("standins")
    flags = ["-std=c++17", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC", "-I", str(GDS / "kernels")]
    for source, library in (("cuda/cuda.cpp", "libcuda.so"), ("cufile/cufile.cpp", "libcufile.so.0")):
        source = GDS / "tests" / f"standin_{source}"
        subprocess.run([compiler, *flags, str(source), "-o", str(folder / library)], check=True)
    return folder


def python(libraries, arguments, directory, **variables):
    """Another interpreter with the package, to which the libraries are NVIDIA's."""
    package = os.path.dirname(os.path.dirname(hicache.__file__))
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "VIRTUAL_ENV", "HOME")}
    environment = {
        **kept,
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": os.pathsep.join([package, str(HERE)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "STANDIN_DEVICES": "2",
        **variables,
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=300)


WAYS = {
    "staged": {},
    "cufile": {"STANDIN_NVFS": "1", "STANDIN_DIRECT": "1"},
}


@pytest.mark.parametrize("way", WAYS)
def test_on_a_device(libraries, tmp_path, way):
    variables = {"HICACHE_GDS_LIBRARY": str(libraries / "libcufile.so.0"), **WAYS[way]}
    arguments = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(HERE / "on_a_device.py")]
    said = python(libraries, arguments, tmp_path, **variables)
    print(said.stdout, said.stderr)
    assert said.returncode == 0, said.stdout[-8000:] + said.stderr[-2000:]


LEFT_OPEN = """
import os, sys, hicache
from device_memory import Driver, Memory, Tensor
storage = hicache.HiCacheNixl(sys.argv[1], device=0, capacity_bytes="64MiB")
driver = Driver()
value, read = Tensor(Memory(driver, b"x" * 65536)), Tensor(Memory(driver, bytes(65536)))
assert storage.set("k", value) and storage.get("k", read).look() == value.look()
child = os.fork() if sys.argv[2] == "fork" else None
if child == 0:
    try:
        storage.exists("k")
    except RuntimeError as error:
        assert "forked" in str(error)
        sys.exit(0)
    os._exit(1)
assert child is None or os.waitpid(child, 0)[1] == 0
if sys.argv[2] == "close":
    storage.close()
print("ran")
"""


@pytest.mark.parametrize("how", ["close", "leave", "fork"])
def test_nobody_calls_the_driver_while_the_process_ends(libraries, tmp_path, how):
    """Nor in a child of a fork: the library that stands in ends such a process by a signal."""
    program = ["-c", LEFT_OPEN, str(tmp_path / "store"), how]
    # Freeing takes its time, as that of pinned memory does.
    said = python(libraries, program, tmp_path, STANDIN_STRICT="1", STANDIN_FREE_MS="50")
    assert (said.returncode, said.stdout) == (0, "ran\n"), said.stderr
