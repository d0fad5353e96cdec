"""HiCacheRust over a pool without torch: every layout, misses, namespaces, ranks, three threads."""

import threading
import time
import types

import pytest
from conftest import FakePool, keys_of, slots_of


@pytest.mark.parametrize("mla", [False, True])
@pytest.mark.parametrize("layout", ["page_first", "page_first_direct", "page_head", "layer_first"])
@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_pages_come_back(backend, layout, mla, io):
    pool = FakePool(layout, mla=mla)
    storage = backend(pool, is_mla_model=mla, io=io)
    pages, other = list(range(10)), list(range(30, 40))
    expected = pool.fill(pages, 1)
    assert storage.batch_set_v1(keys_of(pages), slots_of(pages)) == [True] * 10
    assert storage.batch_exists(keys_of(range(12))) == 10
    pool.wipe()
    assert storage.batch_get_v1(keys_of(pages), slots_of(other)) == [True] * 10
    assert [pool.bytes(page) for page in other] == expected


def test_a_miss_in_the_middle_is_one_false(backend):
    pool = FakePool()
    storage = backend(pool)
    pool.fill([0, 1, 3], 1)
    storage.batch_set_v1(keys_of([0, 1, 3]), slots_of([0, 1, 3]))
    assert storage.batch_exists(keys_of([0, 1, 2, 3])) == 2
    assert storage.batch_get_v1(keys_of([0, 1, 2, 3]), slots_of([8, 9, 10, 11])) == [True, True, False, True]
    counts = storage.counters()
    assert (counts["missed_pages"], counts["failed_pages"], counts["loaded_pages"]) == (1, 0, 3)
    assert counts["store"]["missed_pages"] == 1


def test_pages_survive_a_close(backend):
    pool = FakePool()
    first = backend(pool)
    expected = pool.fill([0, 1], 3)
    first.batch_set_v1(keys_of([0, 1]), slots_of([0, 1]))
    first.close()
    first.close()
    assert first.batch_exists(keys_of([0])) == 0
    assert first.batch_get_v1(keys_of([0]), slots_of([0])) == [False]
    pool.wipe()
    again = backend(pool)
    assert again.batch_get_v1(keys_of([0, 1]), slots_of([4, 5])) == [True, True]
    assert [pool.bytes(4), pool.bytes(5)] == expected


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": "other"},
        {"tp_size": 2},
        {"tp_size": 2, "tp_rank": 1},
        {"pp_size": 2},
        {"revision": "2"},
        {"namespace": {"extra": {"salt": "x"}}},
        {"pool": {"dtype": "bfloat16"}},
        {"pool": {"layout": "page_first_direct"}},
        {"pool": {"page_size": 32}},
        {"pool": {"mla": True}},
    ],
    ids=str,
)
def test_what_differs_is_another_namespace(backend, change):
    change = dict(change)
    pool = FakePool()
    storage = backend(pool)
    pool.fill([0], 1)
    storage.batch_set_v1(keys_of([0]), slots_of([0]))
    other_pool = FakePool(**change.pop("pool", {}))
    other = backend(other_pool, **change)
    assert other.batch_exists(keys_of([0])) == 0
    other.clear()
    assert storage.batch_exists(keys_of([0])) == 1, "clear took another namespace's pages"
    assert storage.clear() is True
    assert storage.batch_exists(keys_of([0])) == 0


@pytest.mark.parametrize(
    ("flag", "values"),
    [("model_path", ("org/chat-v1", "org/chat-v2")), ("load_format", ("auto", "dummy")), ("quantization", (None, "fp8"))],
)
def test_a_served_name_that_stands_for_other_weights_is_another_namespace(backend, monkeypatch, flag, values):
    from hicache.sglang import settings

    def server(value):
        arguments = types.SimpleNamespace(**{flag: value})
        monkeypatch.setattr(settings, "server_arguments", lambda: arguments)
        return backend(pool)

    pool = FakePool()
    pool.fill([0], 1)
    server(values[0]).batch_set_v1(keys_of([0]), slots_of([0]))
    assert server(values[1]).batch_exists(keys_of([0])) == 0, "pages of other weights are found"
    assert server(values[0]).batch_exists(keys_of([0])) == 1


def test_a_revision_does_not_hide_files_that_changed(monkeypatch, tmp_path):
    from hicache.sglang import settings

    (tmp_path / "config.json").write_text("{}")
    arguments = types.SimpleNamespace(revision="main", model_path=str(tmp_path))
    monkeypatch.setattr(settings, "server_arguments", lambda: arguments)
    first = settings.revision_of(None)
    (tmp_path / "config.json").write_text('{"rope_scaling": 2}')
    assert first.startswith("main+local-") and settings.revision_of(None) != first
    arguments.model_path = "org/model"
    assert settings.revision_of(None) == "main"


@pytest.mark.parametrize("packed", [False, True])
def test_layers_of_another_draft_model_are_other_bytes(backend, monkeypatch, packed):
    from hicache.sglang import settings

    pool = FakePool()
    if packed:
        pool.target_layer_num = pool.layer_num - 1

    def server(draft):
        arguments = types.SimpleNamespace(speculative_draft_model_path=draft)
        monkeypatch.setattr(settings, "server_arguments", lambda: arguments)
        return backend(pool)

    server("org/draft-1").batch_set_v1(keys_of([0]), slots_of([0]))
    assert server("org/draft-2").batch_exists(keys_of([0])) == (0 if packed else 1)
    assert server("org/draft-1").batch_exists(keys_of([0])) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_mla_ranks_share_what_one_of_them_stores(backend, tmp_path, first):
    pools = [FakePool(mla=True), FakePool(mla=True)]
    ranks = [None, None]
    for rank in (first, 1 - first):
        ranks[rank] = backend(pools[rank], is_mla_model=True, tp_size=2, tp_rank=rank)
    pools[1].fill([0], 9)
    assert ranks[1].batch_set_v1(keys_of([0]), slots_of([0])) == [True]
    assert ranks[0].batch_exists(keys_of([0])) == 0, "rank 1 stored, and rank 0 is the writer"
    expected = pools[0].fill([0], 1)
    assert ranks[0].batch_set_v1(keys_of([0]), slots_of([0])) == [True]
    assert ranks[1].batch_exists(keys_of([0])) == 1
    assert ranks[1].batch_get_v1(keys_of([0]), slots_of([5])) == [True]
    assert [pools[1].bytes(5)] == expected
    assert ranks[1].counters()["skipped_pages"] == 1
    assert len(list(tmp_path.glob("store/*/set-*"))) == 1, "the rank that only reads has a set of its own"


def test_three_threads_at_once(backend):
    pool = FakePool(pages=256)
    storage = backend(pool)
    expected = pool.fill(range(64), 5)
    failures = []

    def work(number):
        try:
            for round_ in range(20):
                start = (number * 20 + round_) % 60
                pages = [start, start + 1, start + 2, start + 3]
                if number == 0:
                    assert storage.batch_set_v1(keys_of(pages), slots_of(pages)) == [True] * 4
                elif number == 1:
                    assert 0 <= storage.batch_exists(keys_of(pages)) <= 4
                else:
                    done = storage.batch_get_v1(keys_of(pages), slots_of([100, 101, 102, 103]))
                    for page, place, good in zip(pages, range(100, 104), done):
                        assert not good or pool.bytes(place) == expected[page]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_gil_is_free_during_a_call(backend):
    """Another thread is never held up for long while a large batch is stored."""
    pool = FakePool(pages=1024)
    storage = backend(pool, capacity_bytes="512MiB")
    pool.fill(range(0, 1024, 64), 1)
    longest, over = [0.0], threading.Event()

    def tick():
        last = time.perf_counter()
        while not over.is_set():
            now = time.perf_counter()
            longest[0] = max(longest[0], now - last)
            last = now

    ticker = threading.Thread(target=tick)
    ticker.start()
    addresses, lengths = pool.get_page_buffer_meta(slots_of(range(1024)))
    shares = []
    for attempt in range(5):
        keys = keys_of(range(1024), salt=attempt)
        longest[0] = 0.0
        begun = time.perf_counter()
        assert all(storage._store.store("kv", keys, addresses, lengths).done)
        took = time.perf_counter() - begun
        shares.append(longest[0] / took)
    over.set()
    ticker.join()
    # The best of them: a busy machine may hold a thread up too, but not each time.
    assert min(shares) < 0.5, f"the other thread stood still for these shares of the calls: {shares}"


def test_ten_thousand_keys_are_one_call(backend):
    pool = FakePool()
    storage = backend(pool)
    storage.batch_set_v1(keys_of(range(40)), slots_of(range(40)))
    assert storage.batch_exists(keys_of(range(10_000))) == 40
    assert storage.batch_exists([]) == 0


def test_keys_of_any_text(backend):
    """Page hashes are what SGLang passes; whatever else it may pass is kept apart too."""
    pool = FakePool()
    storage = backend(pool)
    keys = ["a", "a\nb", "b", "ü", "A" * 64]
    expected = pool.fill(range(5), 1)
    assert storage.batch_set_v1(keys, slots_of(range(5))) == [True] * 5
    assert storage.batch_exists(keys) == 5
    assert storage.batch_exists(["b", "a\nc"]) == 1
    assert storage.batch_get_v1(keys, slots_of(range(20, 25))) == [True] * 5
    assert [pool.bytes(page) for page in range(20, 25)] == expected


def test_batches_are_told_to_metrics(backend, monkeypatch):
    from hicache.sglang import counters

    class Metrics:
        def __init__(self):
            self.prefetch_pgs, self.backup_pgs, self.prefetch_bandwidth, self.backup_bandwidth = [], [], [], []

    monkeypatch.setattr(counters, "_metrics_type", lambda: Metrics)
    storage = backend(FakePool())
    storage.batch_set_v1(keys_of([0, 1]), slots_of([0, 1]))
    storage.batch_get_v1(keys_of([0]), slots_of([0]))
    stats = storage.get_stats()
    assert (stats.backup_pgs, stats.prefetch_pgs) == ([2], [1])
    assert stats.backup_bandwidth[0] > 0 and stats.prefetch_bandwidth[0] > 0
    assert storage.get_stats().backup_pgs == []


def test_the_tensor_methods(backend):
    import numpy as np

    storage = backend(FakePool(), interface_v1=None)
    pages = [np.random.default_rng(i).integers(0, 256, 5000, dtype=np.uint8) for i in range(4)]
    keys = keys_of(range(4))
    assert storage.batch_set(keys[:3], pages[:3]) is True
    assert storage.set(keys[3], pages[3]) is True
    assert storage.exists(keys[0]) and not storage.exists("0" * 64)
    assert storage.batch_exists([*keys, "0" * 64]) == 4
    targets = [np.zeros(5000, dtype=np.uint8) for _ in range(5)]
    loaded = storage.batch_get([*keys, "0" * 64], targets)
    assert loaded[4] is None and all(a is b for a, b in zip(loaded, targets[:4]))
    assert all((a == b).all() for a, b in zip(loaded, pages))
    assert storage.get(keys[0], np.zeros(4999, dtype=np.uint8)) is None, "another length is a miss"


def test_the_interfaces_keep_pages_apart(backend):
    """SGLang's tensors have the parts of a page in another order than its addresses."""
    import numpy as np

    pool = FakePool()
    storage = backend(pool)
    storage.batch_set_v1(keys_of([0]), slots_of([0]))
    assert storage.get(keys_of([0])[0], np.zeros(len(pool.bytes(0)), dtype=np.uint8)) is None


@pytest.mark.parametrize("version", ["0.5.3", "0.5.5.post1"])
def test_releases_without_addresses_ask_for_tensors(backend, monkeypatch, version):
    """They ignore `interface_v1`, so the pages that they store are those of the tensor methods."""
    import importlib.metadata

    import numpy as np

    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    storage = backend(FakePool())
    assert storage.batch_set(keys_of([0]), [np.ones(100)]) is True
    assert storage.batch_exists(keys_of([0])) == 1
