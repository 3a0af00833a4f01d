"""Every text model of transformers, built tiny from its default config by one function."""

import re
from typing import Any

import torch
from torch import nn
from transformers.models.auto import configuration_auto, modeling_auto

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 3, 32, 4, 64, 40
SIZES = (
    (r"vocab_size|.*_vocab_size", VOCABULARY),
    (r"(num_|n_)?(hidden_|decoder_|encoder_)?layers?|num_(en|de)coder_layers", LAYERS),
    (r"mamba_(d_head|headdim|head_dim)", 2 * WIDTH // HEADS),
    (r".*(head_dim|head_size|d_kv|d_head)", WIDTH // HEADS),
    (r"(?!.*(block|chunk|dim|size|group)).*heads?", HEADS),
    (r".*rotary_dim|.*rope_dim", 4),
    (
        r"hidden_size|d_model|n_embd|emb_dim|dim|model_dim|embedding_size|d_embed|word_embed_proj_dim|embedding_dim",
        WIDTH,
    ),
    (r".*(intermediate|ffn|ff|inner|mlp|feed_?forward).*(size|dim)|d_ff|n_inner|hidden_dim", 2 * WIDTH),
    (r".*(max_position|n_positions|max_seq|n_ctx|max_sequence).*", POSITIONS),
    (r".*num.*experts|n_routed_experts", 4),
    (r".*(experts_per_tok|top_?k|moe_k)|n_shared_experts|.*topk_method", 2),
    (r".*lora_rank", 8),
    (r".*(interval|period)", 2),
)
"""Size of what a key of a config counts, by the first pattern that fits the key."""
TOKEN = re.compile(r".*(token_id|token_index|_index|_id)")
GATED = "full_attention linear_attention full_attention".split()
MORE: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8},
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 2, "moe_layer_freq": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_text": {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global"], 3]]},
    "granite": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "hunyuan_v1_dense": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "hunyuan_v1_moe": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "kimi_linear": {"layer_types": GATED},
    "longcat_flash": {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "mamba2": {"head_dim": 16},
    "ministral": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "nemotron": {"num_key_value_heads": HEADS},
    "qwen3_5_moe_text": {"layer_types": GATED},
    "qwen3_5_text": {"layer_types": GATED},
    "qwen3_next": {"layer_types": GATED},
    "qwen4_exp_text": {"layer_types": GATED},
    "reformer": {"is_decoder": True},
    "xmod": {"languages": ("en_XX",), "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a config needs beside small sizes, by model type."""


def model_types() -> list[str]:
    """Return the model types with a class for the next token, a masked one, or an encoder that reads tokens."""
    return sorted(
        set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        | set(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
        | set(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    )


def tiny_config(model_type: str, **more: Any) -> Any:
    """Return the default config of a model type with small sizes instead of its own.

    Raises:
        ValueError: a model of several modalities, whose text model has a type of its own.
    """
    kind = configuration_auto.CONFIG_MAPPING[model_type]
    default = kind()
    if default.sub_configs:
        raise ValueError(f"several configs: {', '.join(default.sub_configs)}")
    sizes: dict[str, Any] = {}
    for key, value in default.to_dict().items():
        if type(value) is int and value > 0:
            size = next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), None)
            if size is not None:
                sizes[key] = size
            elif TOKEN.fullmatch(key) and value >= VOCABULARY:
                sizes[key] = value % VOCABULARY
    return kind(**{**sizes, **MORE.get(model_type, {}), **more})


def tiny_model(model_type: str, **more: Any) -> nn.Module:
    """Return a model of random weights, with its head if it has one."""
    config = tiny_config(model_type, **more)
    for mapping in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_MAPPING,
    ):
        if type(config) in mapping:
            torch.manual_seed(0)
            return mapping[type(config)](config).eval()
    raise ValueError("no class")
