"""Backends with faults of our own, as classes that SGLang loads."""

import random
import time

from hicache.sglang import HiCacheRust


class Failing(HiCacheRust):
    """The native half raises every other time, in any call."""

    def _opened(self):
        if random.random() < 0.5:
            raise OSError("injected")
        return super()._opened()


class Absent(HiCacheRust):
    """Pages are there when they are asked for, and some are gone when they are loaded."""

    def batch_get_v1(self, keys, host_indices, extra_info=None):
        absent = ["f" * 64 if random.random() < 0.3 else key for key in keys]
        return super().batch_get_v1(absent, host_indices, extra_info)


class Slow(HiCacheRust):
    """Every load takes half a second."""

    def batch_get_v1(self, keys, host_indices, extra_info=None):
        time.sleep(0.5)
        return super().batch_get_v1(keys, host_indices, extra_info)


class WithoutSidePool(HiCacheRust):
    """The second rank has no sliding-window pool; its loads of windows miss."""

    def register_mem_host_pool_v2(self, host_pool, host_pool_name):
        if self._config.tp_rank == 1 and str(getattr(host_pool_name, "value", host_pool_name)) == "swa":
            return
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
