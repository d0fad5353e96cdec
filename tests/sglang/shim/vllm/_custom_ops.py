"""The one kernel that SGLang takes from vLLM on a CPU without AMX, by plain torch."""

import torch


def rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox=True):
    """Rotates queries and keys in place."""
    cos, sin = cos_sin_cache.index_select(0, positions.flatten()).chunk(2, dim=-1)
    width = 2 * cos.shape[-1]
    for states in (query, key):
        if states is None:
            continue
        heads = states.view(positions.numel(), -1, head_size)
        turned = heads[..., :width]
        c, s = (part[:, None, :].to(turned.dtype) for part in (cos, sin))
        if is_neox:
            first, second = turned.chunk(2, dim=-1)
            heads[..., :width] = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
        else:
            first, second = turned[..., ::2], turned[..., 1::2]
            pairs = torch.stack((first * c - second * s, second * c + first * s), dim=-1)
            heads[..., :width] = pairs.flatten(-2)
