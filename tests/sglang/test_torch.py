"""HiCacheNixl with torch tensors."""

import gc

import hicache
import pytest
import torch

NUMBERS = [
    each
    for name in dir(torch)
    if isinstance(each := getattr(torch, name), torch.dtype)
    and not name.startswith(("q", "bits", "uint1", "uint2", "uint3", "uint4", "uint5", "uint6", "uint7", "int1", "int2"))
    and each.itemsize > 0
]


@pytest.fixture
def storage(tmp_path):
    with hicache.HiCacheNixl(file_path=str(tmp_path), capacity_bytes="64MiB") as one:
        yield one


@pytest.mark.parametrize("dtype", sorted(set(NUMBERS), key=str), ids=str)
def test_every_dtype(storage, dtype):
    source = torch.arange(0, 256, dtype=torch.uint8).repeat(2 * dtype.itemsize)
    try:
        value = source.view(dtype)
    except RuntimeError as error:
        pytest.skip(f"torch can't make a {dtype} here: {error}")
    assert storage.set("k", value) is True
    loaded = torch.zeros_like(source).view(dtype)
    assert storage.get("k", loaded) is loaded
    assert torch.equal(loaded.view(torch.uint8), source)


def test_shapes_and_views(storage):
    value = torch.randn(4, 5, 6)
    assert storage.set("whole", value) and storage.set("part", value[2])
    loaded = torch.empty(4, 5, 6)
    storage.get("whole", loaded)
    assert torch.equal(loaded, value)
    storage.get("part", loaded[0])
    assert torch.equal(loaded[0], value[2])
    with pytest.raises(ValueError, match="not contiguous"):
        storage.set("turned", value.transpose(0, 1))


def test_tensors_that_are_not_their_bytes_are_refused(storage):
    value = torch.randn(10, dtype=torch.complex64)
    for lazy in (value.conj(), value.conj().imag):
        with pytest.raises(ValueError, match="resolve_conj|not contiguous"):
            storage.set("k", lazy)
    assert storage.set("k", value.conj().resolve_conj())
    assert torch.equal(storage.get("k", torch.empty_like(value)), value.conj())
    with pytest.raises(ValueError, match="resolve_conj"):
        storage.get("k", value.conj())


def test_a_temporary_tensor_is_not_kept_alive(storage):
    storage.set("k", torch.ones(1000))
    gc.collect()
    assert len(storage._arrays) == 0
    kept = torch.ones(1000)
    assert storage.register(kept) and len(storage._arrays) == 1
    assert storage.deregister(kept) and not storage.deregister(kept)


def test_a_tensor_that_grew_is_registered_anew(storage):
    value = torch.ones(1000)
    storage.set("small", value)
    value.resize_(200_000)
    value.copy_(torch.arange(200_000))
    storage.set("large", value)
    loaded = torch.empty(200_000)
    assert torch.equal(storage.get("large", loaded), torch.arange(200_000).float())


def test_devices_without_a_backend_are_named(storage):
    with pytest.raises(ValueError, match="meta.*copy it to the CPU"):
        storage.set("k", torch.empty(4, device="meta"))
    with pytest.raises(ValueError, match="not contiguous"):
        storage.set("k", torch.eye(4).to_sparse())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="went without: a CUDA tensor, since there is no CUDA device")
def test_a_cuda_tensor_is_refused_by_name(storage):
    with pytest.raises(ValueError, match="cuda:0.*copy it to the CPU"):
        storage.set("k", torch.ones(4, device="cuda"))


def test_tokens_of_a_tensor():
    tokens = torch.arange(1, 300)
    assert hicache.page_hashes(tokens, 64) == hicache.page_hashes(tokens.tolist(), 64)
    assert hicache.page_hashes(tokens.to(torch.int32), 64) == hicache.page_hashes(tokens.tolist(), 64)
