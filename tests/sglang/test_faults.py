"""Faults under a real server: the output never changes."""

import shutil

import pytest
from server import Server, ours
from test_server import settle

ROUNDS = 2


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """One server, to which each test attaches a storage of its own."""
    with Server(model("mha"), tmp_path_factory.mktemp("server") / "log") as one:
        yield one


@pytest.fixture(scope="module")
def outputs(server):
    """What the prompts are answered without any storage."""
    import random

    answers = []
    for number in range(5):
        source = random.Random(100 + number)
        tokens = [source.randrange(3, 1000) for _ in range(640)]
        server.flush()
        output, cached = server.generate(tokens)
        assert cached == 0
        answers.append((tokens, output))
    server.flush()
    return answers


@pytest.fixture
def attached(server, outputs):
    """Attaches a storage, plays the prompts, and detaches."""

    def attach(extra):
        server.flush()
        server.attach(extra)

    yield attach
    server.detach()


def play(server, outputs, rounds=ROUNDS):
    """Prompts again and again, with flushes between; answers how many tokens were cached in all."""
    cached_in_all = 0
    for _ in range(rounds):
        for number, (tokens, expected) in enumerate(outputs):
            output, cached = server.generate(tokens)
            assert output == expected, f"prompt {number} has another output with {cached} tokens cached"
            cached_in_all += cached
        settle(server)
    return cached_in_all


def test_without_a_fault(server, outputs, attached, tmp_path):
    attached(ours(tmp_path))
    assert play(server, outputs) == len(outputs) * 576


@pytest.mark.parametrize("fault", ["Failing", "Absent", "Slow"])
def test_our_faults(server, outputs, attached, tmp_path, fault):
    attached(ours(tmp_path, module_path="faulty", class_name=fault))
    play(server, outputs, rounds=3)


def test_damaged_pages_are_misses(server, outputs, attached, tmp_path):
    """Bytes on the disk are changed under the running server."""
    attached(ours(tmp_path, io="buffered"))
    assert play(server, outputs) > 0
    segments = list(tmp_path.glob("*/set-*/seg-*"))
    assert segments
    for segment in segments:
        with open(segment, "r+b") as file:
            content = bytearray(file.read())
            for at in range(0, len(content), 4096):
                content[at] ^= 0xFF
            file.seek(0)
            file.write(content)
    assert server.generate(outputs[0][0]) == (outputs[0][1], 0), "a damaged page was a hit"
    assert "checksum" in server.log.read_text()
    play(server, outputs, rounds=1)


def test_a_directory_that_goes_away(server, outputs, attached, tmp_path):
    attached(ours(tmp_path / "store"))
    play(server, outputs, rounds=1)
    shutil.rmtree(tmp_path / "store")
    play(server, outputs)


def test_a_full_disk(server, outputs, attached, tmp_path):
    """A capacity of a few pages: everything is evicted all the time."""
    attached(ours(tmp_path, capacity_bytes="4MiB", segment_bytes="1MiB"))
    play(server, outputs)


def test_a_file_system_that_is_full(server, outputs, attached, tmp_path):
    """A file system of its own, filled by somebody else."""
    import subprocess

    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], capture_output=True)
    if mount.returncode:
        server.attach(ours(tmp_path / "store"))  # What is detached at the end.
        pytest.skip(f"went without: a small file system: {mount.stderr.decode().strip()}")
    try:
        attached(ours(place / "store", segment_bytes="1MiB"))
        play(server, outputs, rounds=1)
        with open(place / "somebody-elses", "wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        play(server, outputs)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_sglangs_own_fault_injector(model, outputs, tmp_path):
    variables = {
        "SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY": "0.02",
        "SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE": "0.3",
    }
    with Server(model("mha"), tmp_path / "log", ours(tmp_path / "store"), variables=variables) as server:
        assert play(server, outputs, rounds=5) > 0, "nothing was loaded between the faults"
