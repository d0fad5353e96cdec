"""page_hashes: SGLang's vectors, and the same from every kind of input."""

import array
import hashlib

import hicache
import numpy as np
import pytest

FIRST = "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72"
SECOND = "4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6"


def test_vectors():
    assert hicache.page_hashes([1, 2, 3, 4], 4) == [FIRST]
    assert hicache.page_hashes(list(range(1, 9)), 4) == [FIRST, SECOND]
    assert hicache.page_hashes([5, 6, 7, 8], 4, prior=FIRST) == [SECOND]
    partial = "6dc571acd2ccb712fb7a8b13854443ded3fba409ddd9aa84849d3840c1547ca3"
    assert hicache.page_hashes(list(range(1, 11)), 4)[2] == partial
    wide = "5a70c92f9fb3c8ae74332afb9d2798ced9d2a494397f98bc237f19856758eca1"
    assert hicache.page_hashes([1, 2**33], 4) == [wide]
    seeded = "ca5912b2b40c1105611683a8680b486156fbbcdf3b6ff5d012d0a00740966a0a"
    assert hicache.page_hashes([1, 2, 3, 4], 4, extra_key="lora-A") == [seeded]


def test_a_salt_is_not_an_extra_key():
    keyed, salted = (hicache.page_hashes([1], 4, **{name: "x"}) for name in ("extra_key", "cache_salt"))
    assert keyed != salted != hicache.page_hashes([1], 4)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_arrays_are_read_in_place(dtype):
    tokens = np.arange(1, 1000).astype(dtype)
    expected = hicache.page_hashes(tokens.tolist(), 64)
    assert hicache.page_hashes(tokens, 64) == expected
    assert hicache.page_hashes(memoryview(tokens), 64) == expected
    assert hicache.page_hashes(array.array("q", tokens.tolist()), 64) == expected


def test_read_only_and_empty_arrays():
    tokens = np.arange(1, 1000)
    expected = hicache.page_hashes(tokens, 64)
    tokens.flags.writeable = False
    assert hicache.page_hashes(tokens, 64) == expected
    assert hicache.page_hashes(tokens.tobytes(), 64) == hicache.page_hashes(list(tokens.tobytes()), 64), "bytes are ids"
    assert hicache.page_hashes(np.zeros(0, dtype=np.int64), 64) == []


def test_other_sequences_are_read_one_by_one():
    expected = hicache.page_hashes([1, 2, 3], 4)
    assert hicache.page_hashes((1, 2, 3), 4) == expected
    assert hicache.page_hashes(np.array([1, 2, 3], dtype=np.int16), 4) == expected
    assert hicache.page_hashes(range(1, 4), 4) == expected


def test_against_hashlib():
    random = np.random.default_rng(7)
    for _ in range(200):
        tokens = random.integers(0, 2**32, random.integers(0, 300))
        page = int(random.integers(1, 80))
        prior, expected = b"", []
        for first in range(0, len(tokens), page):
            ids = tokens[first : first + page].astype("<u4").tobytes()
            prior = hashlib.sha256(prior + ids).digest()
            expected.append(prior.hex())
        assert hicache.page_hashes(tokens, page) == expected


def test_bad_input_is_named():
    for arguments, words in (
        (([1], 0), "page_size"),
        (([-1], 4), "-1"),
        ((np.array([1, -2]), 4), "-2"),
        (([1], 4, "zz"), "prior"),
        ((np.arange(10)[::2], 4), "contiguous"),
    ):
        with pytest.raises(ValueError, match=words):
            hicache.page_hashes(*arguments)
    with pytest.raises(TypeError):
        hicache.page_hashes(["a"], 4)
