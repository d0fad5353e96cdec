"""Lets SGLang's HiCache run without a GPU: Python imports this file by itself when its folder is on PYTHONPATH.

Replaced, right after SGLang imports them: the copies between "device" and host pools, pinning, the choice of the MLA
attention path, and one read of the sliding-window pool. Scheduler, tree, cache controller with its threads, host pools
and storage interface are SGLang's own.
"""

import importlib.abc
import sys

AFTER_IMPORT = {
    "sglang.srt.mem_cache.pool_host.common": ("cpu_copies", "no_pinning"),
    "sglang.srt.mem_cache.pool_host.base": ("cpu_copies", "no_unpinning"),
    "sglang.srt.mem_cache.pool_host.mha": ("cpu_copies", "copies_of_mha"),
    "sglang.srt.mem_cache.pool_host.mla": ("cpu_copies", "copies_of_mla"),
    "sglang.srt.mem_cache.pool_host.mamba": ("cpu_copies", "unpinned_mamba"),
    "sglang.srt.mem_cache.pool_host.dsa": ("cpu_copies", "unpinned_indexer"),
    "sglang.srt.models.deepseek_common.attention_backend_handler": ("cpu_attention", "absorbed_mla"),
    "sglang.srt.layers.attention.torch_native_backend": ("cpu_attention", "translated_windows"),
}


class _Then(importlib.abc.Loader):
    """A loader that hands the module to a function when it is there."""

    def __init__(self, loader, change):
        self._loader, self._change = loader, change

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        file, function = self._change
        getattr(__import__(file), function)(module)

    def __getattr__(self, name):
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in AFTER_IMPORT:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Then(spec.loader, AFTER_IMPORT[name])
                return spec
        return None


sys.meta_path.insert(0, _Finder())
