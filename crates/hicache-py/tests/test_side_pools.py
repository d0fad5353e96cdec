"""The v2 interface: windows with holes, pools that are missing, ranks."""

import logging
import types

import numpy as np
import pytest
from conftest import FakePool, keys_of, slots_of
from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolTransfer

TRAILING, ALL = PoolHitPolicy.TRAILING_PAGES, PoolHitPolicy.ALL_PAGES


def store(storage, name, pages):
    transfer = PoolTransfer(name, slots_of(pages), keys_of(pages))
    return storage.batch_set_v2([transfer])[name]


@pytest.fixture
def pools(backend):
    kv, swa = FakePool(pages=32), FakePool(pages=32)
    storage = backend(kv)
    storage.register_mem_host_pool_v2(swa, "swa")
    return storage, kv, swa


def ask(storage, pages, name, policy, window=2):
    transfer = PoolTransfer(name, None, ["__placeholder__"] * window, policy)
    return storage.batch_exists_v2(keys_of(range(pages)), [transfer])


def test_windows_have_holes(pools):
    storage, _, _ = pools
    storage.batch_set_v1(keys_of(range(15)), slots_of(range(15)))
    assert store(storage, "swa", [7, 8]) == [True, True]
    assert store(storage, "swa", [13, 14]) == [True, True]
    result = ask(storage, 15, "swa", TRAILING)
    assert result.kv_hit_pages == 15
    assert result.restorable_prefix_pages == [9, 15]
    assert result.extra_pool_hit_pages == {"kv": 15, "swa": 15}
    assert ask(storage, 12, "swa", TRAILING).restorable_prefix_pages == [9]
    short = ask(storage, 8, "swa", TRAILING)
    assert (short.kv_hit_pages, short.restorable_prefix_pages) == (0, []), "page 7 alone is no window of two"


def test_the_head_is_a_whole_window(pools):
    storage, _, _ = pools
    storage.batch_set_v1(keys_of(range(3)), slots_of(range(3)))
    store(storage, "swa", [0])
    assert ask(storage, 3, "swa", TRAILING).restorable_prefix_pages == [1]


def test_all_pages_clamp(pools):
    storage, _, _ = pools
    storage.batch_set_v1(keys_of(range(5)), slots_of(range(5)))
    store(storage, "swa", [0, 1, 3])
    result = ask(storage, 5, "swa", ALL)
    assert (result.kv_hit_pages, result.restorable_prefix_pages) == (2, [1, 2])


def test_pages_that_were_copied_are_found(backend):
    """Without `interface_v1` KV is stored out of tensors, and the windows by address all the same."""
    storage = backend(FakePool(), interface_v1=None)
    storage.register_mem_host_pool_v2(FakePool(), "swa")
    assert storage.batch_set(keys_of(range(3)), [np.ones(100)] * 3) is True
    store(storage, "swa", [1, 2])
    assert ask(storage, 3, "swa", TRAILING).kv_hit_pages == 3


def test_pools_share_hashes_and_not_pages(pools):
    storage, kv, swa = pools
    kept = [kv.fill([0], 1)[0], swa.fill([0], 2)[0]]
    storage.batch_set_v1(keys_of([0]), slots_of([0]))
    store(storage, "swa", [0])
    swa.wipe()
    assert storage.batch_get_v2([PoolTransfer("swa", slots_of([4]), keys_of([0]))]) == {"swa": [True]}
    assert storage.batch_get_v1(keys_of([0]), slots_of([9])) == [True]
    assert [kv.bytes(9), swa.bytes(4)] == kept


def test_a_pool_that_is_missing_is_a_miss(pools, caplog):
    storage, _, _ = pools
    storage.batch_set_v1(keys_of(range(3)), slots_of(range(3)))
    result = ask(storage, 3, "indexer", ALL)
    assert (result.kv_hit_pages, result.restorable_prefix_pages) == (0, [])
    assert store(storage, "indexer", [0]) == [False]
    assert "indexer" in caplog.text


def test_a_pool_that_can_not_be_served_does_not_stop_the_others(pools, caplog):
    storage, _, _ = pools

    class Odd:
        page_size = 1

        def get_page_buffer_meta(self, indices):
            raise NotImplementedError("carries side states")

    storage.register_mem_host_pool_v2(Odd(), "mamba")
    assert "mamba" in caplog.text and "side states" in caplog.text
    assert store(storage, "swa", [0]) == [True]
    assert storage.batch_get_v2([PoolTransfer("mamba", slots_of([0]), keys_of([0]))]) == {"mamba": [False]}


def test_wrong_numbers_of_slots_are_a_miss(pools, caplog):
    storage, _, _ = pools
    with caplog.at_level(logging.ERROR):
        transfers = [
            PoolTransfer("swa", slots_of([0]), keys_of([0, 1])),
            PoolTransfer("kv", slots_of([0]), keys_of([0])),
        ]
        assert storage.batch_set_v2(transfers) == {"swa": [False, False], "kv": [True]}
    assert "2 keys and 16 slots" in caplog.text


def test_mamba_is_of_each_rank_even_where_kv_is_shared(backend):
    ranks = []
    for rank in range(2):
        storage = backend(FakePool(mla=True), is_mla_model=True, tp_size=2, tp_rank=rank)
        storage.register_mem_host_pool_v2(FakePool(), "indexer")
        state = FakePool(page_size=1, mla=True)
        storage.register_mem_host_pool_v2(state, "mamba")
        ranks.append((storage, state))
    (zero, zero_state), (one, one_state) = ranks
    kept = one_state.fill([0], 3)[0]
    transfer = PoolTransfer("mamba", slots_of([0], 1), keys_of([0]))
    assert one.batch_set_v2([transfer]) == {"mamba": [True]}
    assert zero.batch_get_v2([transfer]) == {"mamba": [False]}
    one_state.wipe()
    assert one.batch_get_v2([transfer]) == {"mamba": [True]}
    assert one_state.bytes(0) == kept
    assert one.batch_set_v1(keys_of([1]), slots_of([1])) == [True]
    assert one.batch_exists(keys_of([1])) == 0, "KV is rank 0's to store"
    shared = PoolTransfer("indexer", slots_of([0]), keys_of([0]))
    assert one.batch_set_v2([shared]) == {"indexer": [True]}
    assert one.batch_get_v2([shared]) == {"indexer": [False]}, "the indexer's pages are rank 0's to store"
    assert zero.batch_set_v2([shared]) == {"indexer": [True]}
    assert one.batch_get_v2([shared]) == {"indexer": [True]}, "the pool was lost when Mamba came"


def test_a_writer_for_mamba_that_can_not_be_opened_leaves_kv(backend, monkeypatch, caplog):
    from hicache.sglang import storage as module

    def refuse(*_):
        raise OSError("no more descriptors")

    zero, one = (backend(FakePool(mla=True), is_mla_model=True, tp_size=2, tp_rank=rank) for rank in (0, 1))
    zero.batch_set_v1(keys_of([0]), slots_of([0]))
    monkeypatch.setattr(module, "_native", types.SimpleNamespace(Store=types.SimpleNamespace(open=refuse)))
    one.register_mem_host_pool_v2(FakePool(page_size=1, mla=True), "mamba")
    assert "no more descriptors" in caplog.text
    assert one.batch_exists(keys_of([0])) == 1, "KV was lost with Mamba"
    assert one.batch_get_v1(keys_of([0]), slots_of([3])) == [True]


def test_a_draft_pool_of_another_draft_model_is_a_miss(backend, monkeypatch):
    from hicache.sglang import settings

    def server(draft):
        arguments = types.SimpleNamespace(speculative_draft_model_path=draft)
        monkeypatch.setattr(settings, "server_arguments", lambda: arguments)
        storage = backend(FakePool())
        storage.register_mem_host_pool_v2(FakePool(), "draft")
        return storage

    first = server("org/draft-1")
    first.batch_set_v1(keys_of([0]), slots_of([0]))
    assert store(first, "draft", [0]) == [True]
    assert ask(server("org/draft-2"), 1, "draft", ALL).kv_hit_pages == 0
    assert ask(server("org/draft-1"), 1, "draft", ALL).kv_hit_pages == 1
