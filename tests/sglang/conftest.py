"""Options, models and directories of the harness."""

import random
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE / "shim"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_addoption(parser):
    parser.addoption("--models", default=None, help="directory in which the tiny models are kept")
    parser.addoption("--requests", type=int, default=60, help="requests of the soak")
    parser.addoption("--workload", default=None, help="recorded workload (Mooncake JSONL) of the soak; else one made here")


@pytest.fixture(scope="session")
def model_root(request, tmp_path_factory):
    given = request.config.getoption("--models")
    return Path(given) if given else tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(model_root):
    """Makes a tiny model of a kind, once."""
    import subprocess

    from models import MADE_BY, recipe

    def make(kind, seed=0):
        directory = model_root / f"{kind}-{seed}"
        made_by = directory / MADE_BY
        if not made_by.exists() or made_by.read_text() != recipe():
            shutil.rmtree(directory, ignore_errors=True)
            # In a process of its own: making one takes torch, and a gigabyte of memory that it keeps.
            command = [sys.executable, str(HERE / "models.py"), kind, str(directory), str(seed)]
            from server import environment

            subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
        return directory

    return make


@pytest.fixture
def prompt():
    """Prompts by number: 1,024 token ids."""

    def make(number, tokens=1024):
        source = random.Random(number)
        return [source.randrange(3, 1000) for _ in range(tokens)]

    return make
