"""The package itself: probe, the command, what an import costs."""

import json
import os
import signal
import subprocess
import sys
import time

import hicache
import pytest


def run(*arguments):
    package = os.path.dirname(os.path.dirname(hicache.__file__))
    environment = {**os.environ, "PYTHONPATH": package}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def test_probe_moves_bytes(tmp_path):
    probed = hicache.probe(tmp_path)["directories"]
    assert [entry["directory"] for entry in probed] == [str(tmp_path)]
    verdicts = {report["backend"]: report["verdict"] for report in probed[0]["backends"]}
    assert verdicts["posix-pread"] == "usable" and verdicts["memory"] == "usable"
    assert list(tmp_path.iterdir()) == [], "the probe left something behind"
    with pytest.raises(ValueError, match="capacity_bytes"):
        hicache.probe(tmp_path, capacity_byte=1)


def test_the_command(tmp_path):
    said = run("-m", "hicache", "probe", "--json", "--dir", str(tmp_path))
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["selected"] in ("posix-uring", "posix-pread")
    assert run("-m", "hicache", "nonsense").returncode == 2
    version = run("-m", "hicache", "--version")
    assert version.stdout.split()[1] == hicache.__version__


def test_the_command_reads_what_the_package_wrote(tmp_path):
    import numpy as np

    with hicache.HiCacheNixl(file_path=str(tmp_path), capacity_bytes="64MiB") as storage:
        storage.set("seen", np.ones(100))
    listed = run("-m", "hicache", "list", str(tmp_path))
    assert listed.returncode == 0 and "seen" in listed.stdout, listed.stderr
    assert run("-m", "hicache", "verify", str(tmp_path)).returncode == 0


def test_the_command_can_be_interrupted(tmp_path):
    trace = tmp_path / "trace"
    os.mkfifo(trace)
    package = os.path.dirname(os.path.dirname(hicache.__file__))
    command = [sys.executable, "-m", "hicache", "replay", "--trace", str(trace)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": package}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                os.open(trace, os.O_WRONLY | os.O_NONBLOCK)  # Once it reads; nothing will come.
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()


def test_an_import_needs_neither_torch_nor_numpy():
    said = run("-c", "import hicache, sys; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert said.stdout.split() == ["False", "False"], said.stderr


def test_types_are_there():
    from pathlib import Path

    package = Path(hicache.__file__).parent
    assert (package / "py.typed").exists() and (package / "_native.pyi").exists()
    native = __import__("hicache._native", fromlist=["x"])
    stub = (package / "_native.pyi").read_text()
    for name in dir(native):
        if not name.startswith("__") and name not in ("Batch",):
            assert f"def {name}" in stub or f"class {name}" in stub, f"{name} has no type"
