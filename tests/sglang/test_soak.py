"""Requests of a recorded workload's shape against a tiny model: hits, equal outputs, and memory that stays flat."""

import json
import random
from pathlib import Path

from server import PAGE_TOKENS, Server, ours

#: Longest prompt in blocks; the tiny model has room for few.
BLOCKS = 24
#: Requests between two flushes, which make later ones ask the storage.
BETWEEN_FLUSHES = 20
#: Growth of the scheduler's memory that is no leak: allocators keep what they had at the busiest moment.
SLACK_KIB = 96 << 10


def conversations(requests, seed=3):
    """Requests as lists of block ids: conversations that grow, behind a few shared system prompts."""
    source, open_ones, fresh = random.Random(seed), [], 1000
    for _ in range(requests):
        if open_ones and source.random() < 0.7:
            blocks = open_ones.pop(source.randrange(len(open_ones)))
        else:
            blocks = list(range(source.choice([10, 20, 30]), 40, 10))
        grown = source.randrange(1, 4)
        blocks = blocks + list(range(fresh, fresh + grown))
        fresh += grown
        if len(blocks) < BLOCKS:
            open_ones.append(blocks)
        yield blocks


def recorded(path, requests):
    with open(path) as lines:
        for _, line in zip(range(requests), lines):
            yield json.loads(line)["hash_ids"]


def tokens_of(blocks):
    """Each block of the workload is one page of ids, made from its number."""
    tokens = []
    for block in blocks[:BLOCKS]:
        source = random.Random(block)
        tokens += [source.randrange(3, 1000) for _ in range(PAGE_TOKENS)]
    return [*tokens, 5]


def memory_kib(group):
    """What all processes of a session hold, without what they share with files."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if int((status.parent / "stat").read_text().rsplit(")", 1)[1].split()[2]) != group:
                continue
            for line in status.read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def test_many_requests(request, model, tmp_path):
    requests = request.config.getoption("--requests")
    workload = request.config.getoption("--workload")
    source = recorded(workload, requests) if workload else conversations(requests)
    outputs, cached_tokens, asked_tokens, memory = {}, 0, 0, []
    extra = ours(tmp_path / "store", capacity_bytes="512MiB")
    with Server(model("mha"), tmp_path / "log", extra) as server:
        for number, blocks in enumerate(source):
            tokens = tokens_of(blocks)
            output, cached = server.generate(tokens, new_tokens=2)
            assert outputs.setdefault(tuple(blocks[:BLOCKS]), output) == output
            cached_tokens, asked_tokens = cached_tokens + cached, asked_tokens + len(tokens)
            if number % BETWEEN_FLUSHES == BETWEEN_FLUSHES - 1:
                server.flush()
                memory.append(memory_kib(server.process.pid))
        text = server.log.read_text()
    assert "counts as a miss" not in text
    assert cached_tokens > asked_tokens // 10, f"{cached_tokens} of {asked_tokens} tokens were cached"
    half = memory[len(memory) // 2 :]
    print(f"{requests} requests, {cached_tokens} of {asked_tokens} tokens cached, memory {memory[0]} to {memory[-1]} KiB")
    assert half[-1] - half[0] < SLACK_KIB, f"memory grows: {memory}"
