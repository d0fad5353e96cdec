"""Backends with faults of our own."""

import random

from hicache.sglang import HiCacheRust


class Failing(HiCacheRust):
    """The native half raises every other time, in any call."""

    def _opened(self):
        if random.random() < 0.5:
            raise OSError("injected")
        return super()._opened()


class Absent(HiCacheRust):
    """Pages are there when they are asked for, and gone when they are loaded."""

    def batch_get_v1(self, keys, host_indices, extra_info=None):
        absent = ["f" * 64 if random.random() < 0.3 else key for key in keys]
        return super().batch_get_v1(absent, host_indices, extra_info)
