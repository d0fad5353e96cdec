"""Faults under a real server: the output never changes."""

import pytest
from server import Server, ours
from test_server import settle


def play(server, prompts, outputs, rounds=3):
    """Prompts again and again, with flushes between; answers how many tokens were cached in all."""
    cached_in_all = 0
    for _ in range(rounds):
        for number, tokens in enumerate(prompts):
            output, cached = server.generate(tokens)
            assert outputs.setdefault(number, output) == output, f"prompt {number} has another output"
            cached_in_all += cached
        settle(server)
    return cached_in_all


@pytest.fixture(scope="module")
def outputs():
    return {}


@pytest.fixture
def prompts(prompt):
    return [prompt(100 + number, 640) for number in range(6)]


def test_the_outputs_without_storage(model, prompts, outputs, tmp_path):
    with Server(model("mha"), tmp_path / "log") as server:
        assert play(server, prompts, outputs, rounds=1) == 0


def test_sglangs_own_fault_injector(model, prompts, outputs, tmp_path):
    variables = {
        "SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY": "0.02",
        "SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE": "0.3",
    }
    with Server(model("mha"), tmp_path / "log", ours(tmp_path / "store"), variables=variables) as server:
        assert play(server, prompts, outputs, rounds=5) > 0, "nothing was loaded between the faults"


@pytest.mark.parametrize("fault", ["Failing", "Absent"])
def test_our_faults(model, prompts, outputs, tmp_path, fault):
    extra = ours(tmp_path / "store", module_path="faulty", class_name=fault)
    with Server(model("mha"), tmp_path / "log", extra) as server:
        play(server, prompts, outputs)


def test_damaged_pages_are_misses(model, prompts, outputs, tmp_path):
    """Bytes on the disk are changed under the running server."""
    storage = tmp_path / "store"
    with Server(model("mha"), tmp_path / "log", ours(storage, io="buffered")) as server:
        assert play(server, prompts, outputs, rounds=2) > 0
        for segment in storage.glob("*/set-*/seg-*"):
            content = bytearray(segment.read_bytes())
            for at in range(0, len(content), 4096):
                content[at] ^= 0xFF
            segment.write_bytes(content)
        play(server, prompts, outputs, rounds=1)
        assert "checksum" in server.log.read_text() or "corrupt" in server.log.read_text()


def test_a_directory_that_goes_away(model, prompts, outputs, tmp_path):
    import shutil

    storage = tmp_path / "store"
    with Server(model("mha"), tmp_path / "log", ours(storage)) as server:
        play(server, prompts, outputs, rounds=1)
        shutil.rmtree(storage)
        play(server, prompts, outputs, rounds=2)


def test_a_full_disk(model, prompts, outputs, tmp_path):
    """A capacity of sixteen pages holds a tenth of what is stored: everything is evicted all the time."""
    extra = ours(tmp_path / "store", capacity_bytes="4MiB", segment_bytes="1MiB")
    with Server(model("mha"), tmp_path / "log", extra) as server:
        play(server, prompts, outputs)
