"""What SGLang's plain torch attention lacks for models whose cache is not plain MHA."""


def absorbed_mla(module):
    # torch_native has no entry, and the path that others take wants K and V that it never makes. The absorbed one reads
    # the latent pool, which is there.
    module.AttentionBackendRegistry.register(
        "torch_native", lambda attention, forward_batch: module.AttnForwardMethod.MLA
    )


class _OtherTable:
    """Stands in for the pool of request tables, with slots of the window pool."""


def translated_windows(module):
    # torch_native writes layers with a window at their own slots, and reads them at those of the full pool.
    backend = module.TorchNativeAttnBackend

    def wrap(name):
        original = getattr(backend, name)

        def forward(self, q, k, v, layer, forward_batch, save_kv_cache=True, **named):
            pool = self.token_to_kv_pool
            if not (self.use_sliding_window_kv_pool and pool.layers_mapping[layer.layer_id][1]):
                return original(self, q, k, v, layer, forward_batch, save_kv_cache, **named)
            full = self.req_to_token_pool
            mapping = pool.full_to_swa_index_mapping
            window = _OtherTable()
            window.req_to_token = mapping[full.req_to_token.long().clamp(0, mapping.numel() - 1)]
            self.req_to_token_pool = window
            try:
                return original(self, q, k, v, layer, forward_batch, save_kv_cache, **named)
            finally:
                self.req_to_token_pool = full

        setattr(backend, name, forward)

    wrap("forward_extend")
    wrap("forward_decode")
