"""Controls: backends that lie, with which the tests of the server must fail."""

import ctypes

from hicache.sglang import HiCacheRust


class Corrupting(HiCacheRust):
    """Loads pages and then changes their bytes, and says that they are right."""

    def batch_get_v1(self, keys, host_indices, extra_info=None):
        done = super().batch_get_v1(keys, host_indices, extra_info)
        addresses, lengths = self._pool.pieces(keys, host_indices)
        for address, length in zip(addresses, lengths):
            ctypes.memset(address, 0x3C, length)
        return done


class Forgetting(HiCacheRust):
    """Stores nothing, and says that it did."""

    def batch_set_v1(self, keys, host_indices, extra_info=None):
        return [True] * len(keys)
