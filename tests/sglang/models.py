"""Tiny models with random weights, made on the spot: four layers, 1,024 tokens, a tokenizer of bytes.

usage: models.py {mha,mla,mla-v3,swa} DIRECTORY [SEED]
"""

import hashlib
import json
import sys
from pathlib import Path

#: The file in a model's directory that says by which recipe it was made.
MADE_BY = "made-by"
LAYERS, HIDDEN, INNER, VOCABULARY = 4, 256, 512, 1024
WINDOW = 128


def recipe():
    """What tells a model that was made by other lines of this file."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


class Weights:
    """Random matrices that keep the size of what goes through, and norms of ones."""

    def __init__(self, seed):
        import torch  # Not above: whoever only asks for the recipe need not wait for it.

        self._torch = torch
        self._generator = torch.Generator().manual_seed(seed)
        self.by_name = {}

    def matrix(self, name, rows, columns):
        values = self._torch.randn(rows, columns, generator=self._generator) * columns**-0.5
        self.by_name[f"{name}.weight"] = values.to(self._torch.bfloat16)

    def norm(self, name, size):
        self.by_name[f"{name}.weight"] = self._torch.ones(size, dtype=self._torch.bfloat16)

    def frame(self):
        self.matrix("model.embed_tokens", VOCABULARY, HIDDEN)
        self.matrix("lm_head", VOCABULARY, HIDDEN)
        self.norm("model.norm", HIDDEN)

    def block(self, layer):
        name = f"model.layers.{layer}"
        self.norm(f"{name}.input_layernorm", HIDDEN)
        self.norm(f"{name}.post_attention_layernorm", HIDDEN)
        self.matrix(f"{name}.mlp.gate_proj", INNER, HIDDEN)
        self.matrix(f"{name}.mlp.up_proj", INNER, HIDDEN)
        self.matrix(f"{name}.mlp.down_proj", HIDDEN, INNER)
        return f"{name}.self_attn"


def shared_config(architecture, model_type):
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def grouped_attention(weights, layer, heads=4, kv_heads=2, width=64):
    attention = weights.block(layer)
    weights.matrix(f"{attention}.q_proj", heads * width, HIDDEN)
    weights.matrix(f"{attention}.k_proj", kv_heads * width, HIDDEN)
    weights.matrix(f"{attention}.v_proj", kv_heads * width, HIDDEN)
    weights.matrix(f"{attention}.o_proj", HIDDEN, heads * width)
    weights.norm(f"{attention}.q_norm", width)
    weights.norm(f"{attention}.k_norm", width)


def mha(weights):
    """Qwen3: plain attention with grouped heads."""
    for layer in range(LAYERS):
        grouped_attention(weights, layer)
    return shared_config("Qwen3ForCausalLM", "qwen3") | {
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rope_theta": 1000000.0,
    }


def swa(weights):
    """Mellum: three layers with a sliding window and one without, so SGLang keeps two pools."""
    for layer in range(LAYERS):
        grouped_attention(weights, layer)
    rope = {"rope_type": "default"}
    return shared_config("MellumForCausalLM", "mellum") | {
        "num_key_value_heads": 2,
        "head_dim": 64,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention"] * (LAYERS - 1) + ["full_attention"],
        "mlp_layer_types": ["dense"] * LAYERS,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "pad_token_id": 0,
        "rope_parameters": {
            "full_attention": rope | {"rope_theta": 500000.0},
            "sliding_attention": rope | {"rope_theta": 10000.0},
        },
    }


def mla(weights, v3=False):
    """DeepSeek-V2 or V3 with dense layers only: one latent row a token."""
    heads, plain, turned, value, query_rank, latent = 4, 64, 32, 64, 128, 128
    for layer in range(LAYERS):
        attention = weights.block(layer)
        weights.matrix(f"{attention}.q_a_proj", query_rank, HIDDEN)
        weights.norm(f"{attention}.q_a_layernorm", query_rank)
        weights.matrix(f"{attention}.q_b_proj", heads * (plain + turned), query_rank)
        weights.matrix(f"{attention}.kv_a_proj_with_mqa", latent + turned, HIDDEN)
        weights.norm(f"{attention}.kv_a_layernorm", latent)
        weights.matrix(f"{attention}.kv_b_proj", heads * (plain + value), latent)
        weights.matrix(f"{attention}.o_proj", HIDDEN, heads * value)
    name = "DeepseekV3ForCausalLM" if v3 else "DeepseekV2ForCausalLM"
    return shared_config(name, "deepseek_v3" if v3 else "deepseek_v2") | {
        "num_key_value_heads": heads,
        "q_lora_rank": query_rank,
        "kv_lora_rank": latent,
        "qk_nope_head_dim": plain,
        "qk_rope_head_dim": turned,
        "v_head_dim": value,
        "moe_intermediate_size": 128,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": LAYERS,
        "moe_layer_freq": 1,
        "topk_method": "noaux_tc" if v3 else "greedy",
        "scoring_func": "sigmoid" if v3 else "softmax",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "num_nextn_predict_layers": 0,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
        },
    }


def save_tokenizer(directory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 24,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["a page that was seen before is loaded instead of computed"] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template="{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}",
    )
    fast.save_pretrained(directory)


MAKERS = {"mha": mha, "mla": mla, "mla-v3": lambda weights: mla(weights, v3=True), "swa": swa}


def make(kind, directory, seed=0):
    """Makes the model; answers its directory."""
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = Weights(seed)
    weights.frame()
    config = MAKERS[kind](weights)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    (directory / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    save_file(weights.by_name, str(directory / "model.safetensors"), metadata={"format": "pt"})
    save_tokenizer(directory)
    (directory / MADE_BY).write_text(recipe())  # The last file: what was interrupted has none.
    return directory


if __name__ == "__main__":
    print(make(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0))
