"""SGLang's HiCache on our page store.

Start the server with ``--hicache-storage-backend dynamic`` and
``--hicache-storage-backend-extra-config '{"backend_name": "hicache", "module_path": "hicache.sglang",
"class_name": "HiCacheRust", "interface_v1": 1}'``.
"""

from __future__ import annotations

#: The first release of SGLang that loads a storage backend by name.
FIRST_RELEASE = "0.5.3"

try:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage as _base
    from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory as _factory
except ImportError as _error:
    raise ImportError(
        f"hicache.sglang is a backend of SGLang's HiCache and needs SGLang {FIRST_RELEASE} or later, the first release "
        "with the storage backend `dynamic`, installed beside it (pip install sglang); outside of SGLang use "
        f"hicache.HiCacheNixl. What is missing: {_error}"
    ) from _error
if not hasattr(_factory, "_create_dynamic_backend"):
    raise ImportError(
        "this SGLang has no storage backend `dynamic`, by which hicache is loaded; the first release with it is "
        f"{FIRST_RELEASE}"
    )

from .storage import HiCacheRust  # noqa: E402

__all__ = ["FIRST_RELEASE", "HiCacheRust"]
