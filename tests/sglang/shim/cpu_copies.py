"""Copies between device pools and host pools by plain torch; on this machine both are in the same memory."""


def no_pinning(module):
    module._cuda_host_register = lambda buffer, registration_granularity_bytes=None: None
    module._cuda_host_unregister = lambda buffer: None


def no_unpinning(module):
    module._cuda_host_unregister = lambda buffer: None


def _never_pinned(pool_class):
    init = pool_class.__init__

    def __init__(self, *arguments, **named):
        named["pin_memory"] = False
        init(self, *arguments, **named)

    pool_class.__init__ = __init__


def unpinned_mamba(module):
    _never_pinned(module.MambaPoolHost)


def unpinned_indexer(module):
    _never_pinned(module.DSAIndexerPoolHost)


def _rows(pool, layer, slots):
    """Where the rows of token slots are in one half of an MHA buffer."""
    page = pool.page_size
    places = {
        "layer_first": (layer, slots),
        "page_first": (slots, layer),
        "page_first_direct": (slots // page, layer, slots % page),
        "page_head": (slots // page, slice(None), slots % page, layer),
    }
    return places[pool.layout]


def copies_of_mha(module):
    pool_class = module.MHATokenToKVPoolHost
    module._cuda_host_unregister = lambda buffer: None
    _never_pinned(pool_class)

    def load(self, device_pool, host_indices, device_indices, layer_id, io_backend, *, is_draft=False):
        if not is_draft and not 0 <= layer_id < self.target_layer_num:
            return
        host, device = host_indices.cpu(), device_indices.cpu()
        for half, buffers in enumerate((self.device_k_buffers, self.device_v_buffers)):
            rows = self.kv_buffer[half][_rows(self, layer_id, host)]
            buffers[layer_id][device] = rows.to(buffers[layer_id].dtype)

    def backup(self, device_pool, host_indices, device_indices, io_backend):
        host, device = host_indices.cpu(), device_indices.cpu()
        for layer in range(self.layer_num):
            for half, buffers in enumerate((self.device_k_buffers, self.device_v_buffers)):
                self.kv_buffer[half][_rows(self, layer, host)] = buffers[layer][device]

    pool_class.load_to_device_per_layer = load
    pool_class.backup_from_device_all_layer = backup


def _latent_rows(pool, layer, slots):
    page = pool.page_size
    places = {
        "layer_first": (layer, slots),
        "page_first": (slots, layer),
        "page_first_direct": (slots // page, layer, slots % page),
        "page_unified": (slots // page, layer, slots % page),
    }
    return places[pool.layout]


def copies_of_mla(module):
    pool_class = module.MLATokenToKVPoolHost
    _never_pinned(pool_class)

    def load(self, device_pool, host_indices, device_indices, layer_id, io_backend, *, is_draft=False):
        if not is_draft and layer_id not in self._target_layer_indices:
            return
        host, device = host_indices.cpu(), device_indices.cpu()
        buffer = self.device_kv_buffers[self._buffer_index_by_layer[layer_id]]
        rows = self.kv_buffer[_latent_rows(self, self._host_layer_by_controller[layer_id], host)]
        buffer[device] = rows.to(buffer.dtype)

    def backup(self, device_pool, host_indices, device_indices, io_backend):
        host, device = host_indices.cpu(), device_indices.cpu()
        for layer in range(self.layer_num):
            self.kv_buffer[_latent_rows(self, layer, host)] = self.device_kv_buffers[layer][device]

    pool_class.load_to_device_per_layer = load
    pool_class.backup_from_device_all_layer = backup
