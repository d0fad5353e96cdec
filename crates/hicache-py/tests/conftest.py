"""Host pools without torch, and backends over them."""

import configparser
import hashlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest

STANDIN = Path(__file__).parent / "standin"
sys.path.insert(0, str(STANDIN))

PAGE = 16
LAYERS, HEADS, DIM = 3, 2, 64


def pytest_addoption(parser):
    parser.addoption("--nixl", default=None, help="directory of packages with NIXL's wheel")
    parser.addoption("--object-store", default=None, help="address of an S3 server with the bucket `pages`")
    parser.addoption("--credentials", default=None, help="AWS credentials file for it")


@pytest.fixture
def nixl(request):
    """The settings by which NIXL is found. The wheel is not installed beside ours, as on most machines."""
    packages = request.config.getoption("--nixl")
    if packages is None:
        pytest.skip("went without: NIXL, since its wheel is not installed (cargo xtask nixl)")
    return {"nixl": {"site_packages": packages}}


@pytest.fixture
def object_store(request, tmp_path):
    """The settings of a bucket on a real server, with a prefix of its own."""
    address = request.config.getoption("--object-store")
    if address is None:
        pytest.skip("went without: SeaweedFS, since it is not installed")
    credentials = request.config.getoption("--credentials")
    common = {"bucket": "pages", "prefix": tmp_path.name}
    keys = configparser.ConfigParser()
    keys.read(credentials)
    nixl_keys = {
        "access_key": keys["default"]["aws_access_key_id"],
        "secret_key": keys["default"]["aws_secret_access_key"],
    }
    return {
        "obj_s3": {**common, "endpoint": address, "credentials_file": credentials, "load_timeout_ms": 30_000},
        "nixl_obj": {"bucket": "pages", "prefix": f"nixl-{tmp_path.name}", "endpoint_override": address, **nixl_keys},
    }


class FakePool:
    """A host pool of float32 in one of SGLang's layouts, with its addresses."""

    def __init__(self, layout="page_first", pages=64, mla=False, dtype="float32", page_size=PAGE):
        self.layout, self.page_size, self.mla = layout, page_size, mla
        self.dtype = dtype
        self.layer_num, self.head_num, self.head_dim = LAYERS, HEADS, DIM
        self.size = pages * page_size
        halves = 1 if mla else 2
        self.row = HEADS * DIM * 4
        self.kv_buffer = np.zeros((halves, LAYERS * self.size * HEADS * DIM), dtype=np.float32)

    def get_page_buffer_meta(self, indices):
        base, half = self.kv_buffer.ctypes.data, self.kv_buffer.nbytes // self.kv_buffer.shape[0]
        addresses, lengths = [], []
        slots = indices.tolist()
        for first in slots[:: self.page_size]:
            if self.layout == "layer_first":
                for layer in range(LAYERS):
                    at = base + (layer * self.size + first) * self.row
                    parts = [at] if self.mla else [at, at + half]
                    addresses += parts
                    lengths += [self.page_size * self.row] * len(parts)
            else:
                at = base + first * LAYERS * self.row
                parts = [at] if self.mla else [at, at + half]
                addresses += parts
                lengths += [self.page_size * LAYERS * self.row] * len(parts)
        return addresses, lengths

    def fill(self, pages, seed):
        """Random numbers in some pages; answers what is in them."""
        random = np.random.default_rng(seed)
        for page in pages:
            for view in self.views(page):
                view[:] = random.integers(0, 256, len(view), dtype=np.uint8)
        return [self.bytes(page) for page in pages]

    def views(self, page):
        addresses, lengths = self.get_page_buffer_meta(slots_of([page], self.page_size))
        flat = self.kv_buffer.reshape(-1).view(np.uint8)
        base = self.kv_buffer.ctypes.data
        return [flat[at - base : at - base + length] for at, length in zip(addresses, lengths)]

    def bytes(self, page):
        return b"".join(view.tobytes() for view in self.views(page))

    def wipe(self):
        self.kv_buffer[:] = -1


def slots_of(pages, page_size=PAGE):
    """Token slots of pages, as SGLang passes them."""
    return np.concatenate([np.arange(page * page_size, (page + 1) * page_size) for page in pages]).astype(np.int64)


def keys_of(pages, salt=""):
    return [hashlib.sha256(f"{salt}{page}".encode()).hexdigest() for page in pages]


def storage_config(storage_dir, **more):
    """A config as SGLang makes it; what is not one of its fields goes to the extra config."""
    fields = {
        "tp_rank": 0,
        "tp_size": 1,
        "pp_rank": 0,
        "pp_size": 1,
        "is_mla_model": False,
        "is_page_first_layout": True,
        "model_name": "tiny",
    }
    extra = {"interface_v1": 1, "storage_dir": str(storage_dir), "capacity_bytes": "64MiB"}
    for name, value in more.items():
        (fields if name in fields or name in ("should_split_heads", "tp_lcm_size") else extra)[name] = value
    fields["extra_config"] = {name: value for name, value in extra.items() if value is not None}
    return types.SimpleNamespace(**fields)


@pytest.fixture
def backend(tmp_path):
    """Makes backends that are closed at the end."""
    from hicache.sglang import HiCacheRust

    made = []

    def make(pool=None, storage_dir=None, **more):
        one = HiCacheRust(storage_config(storage_dir or tmp_path / "store", **more), {})
        made.append(one)
        if pool is not None:
            one.register_mem_pool_host(pool)
            one.register_mem_host_pool_v2(pool, "kv")
            one.on_host_pools_registered()
        return one

    yield make
    for one in made:
        one.close()
