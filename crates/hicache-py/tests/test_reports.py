"""Log lines: what went wrong is told once, whatever numbers are in it."""

import logging

import numpy as np
from conftest import FakePool, keys_of, slots_of

from hicache import _reports


def test_one_cause_is_one_line_whatever_its_numbers(backend, caplog):
    pool = FakePool()
    storage = backend(pool)
    pool.kv_buffer = np.zeros_like(pool.kv_buffer)
    for page in range(20):
        assert storage.batch_set_v1(keys_of([page]), slots_of([page])) == [False]
    lines = [record.getMessage() for record in caplog.records if "not in registered memory" in record.getMessage()]
    assert len(lines) == 1, lines


def test_records_of_the_native_half_reach_logging_once(backend, caplog, tmp_path):
    pool = FakePool()
    storage = backend(pool, io="buffered")
    pool.fill(range(40), 1)
    assert storage.batch_set_v1(keys_of(range(40)), slots_of(range(40))) == [True] * 40
    for segment in tmp_path.glob("store/*/set-*/seg-*"):
        content = np.fromfile(segment, dtype=np.uint8)
        content[::512] ^= 0xFF
        with open(segment, "r+b") as file:
            file.write(content.tobytes())
    assert storage.batch_get_v1(keys_of(range(40)), slots_of(range(40))) == [False] * 40
    storage.batch_exists(keys_of([0]))  # It takes the records along.
    lines = [
        record
        for record in caplog.records
        if record.name.startswith("hicache.hicache_") and "does not fit its checksum" in record.getMessage()
    ]
    assert len(lines) == 1, caplog.text


def test_what_was_left_out_is_counted(caplog):
    reports = _reports.Reports(logging.getLogger("hicache.test"), every_s=0)
    reports.tell(logging.ERROR, "cause", "first")
    reports._every_s = 60
    for _ in range(3):
        reports.tell(logging.ERROR, "cause", "left out")
    reports._every_s = 0
    reports.tell(logging.ERROR, "cause", "again")
    assert [record.getMessage() for record in caplog.records] == ["first", "again (3 more like this in between)"]


def test_causes_are_forgotten(caplog):
    reports = _reports.Reports(logging.getLogger("hicache.test"))
    for number in range(5000):
        reports.tell(logging.WARNING, f"cause {number}", "x")
    assert len(reports._told) == _reports.MOST
    assert len(caplog.records) == 5000


def test_causes():
    same = [
        "49152 bytes at 0x7f12ab are not in registered memory",
        "512 bytes at 0xdeadbeef00 are not in registered memory",
    ]
    assert len({_reports.cause_of(text) for text in same}) == 1
    assert _reports.cause_of("a bad cafe") == "a bad cafe", "letters alone are words"
    assert len(_reports.cause_of("x" * 1000)) == 60
