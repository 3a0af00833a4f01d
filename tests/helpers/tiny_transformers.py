"""Every text model of transformers, built tiny from its default config by one function."""

import re
from typing import Any

import torch
from transformers.models.auto import configuration_auto, modeling_auto

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 2, 32, 4, 64, 40
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
    (r".*(interval|period)|layer_group_size", 2),
    (r"(.*_)?n_groups?|topk_group|num_expert_groups?", 1),
)
"""Size of what a key of a config counts, by the first pattern that fits the key."""
TOKEN = re.compile(r".*(token_id|token_index|_index|_id)")
GATED = ["linear_attention", "full_attention"]
MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 2, "moe_layer_freq": 1},
    "dots1": {"n_routed_experts": 4},
    "esm": {"pad_token_id": 1, "mask_token_id": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_text": {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "granite": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "head_dim": 8},
    "hunyuan_v1_moe": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "head_dim": 8},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "kimi_linear": {"layer_types": GATED},
    "longcat_flash": {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "q_lora_rank": 8, "head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"head_dim": 16},
    "ministral": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "head_dim": 8},
    "nemotron": {"num_key_value_heads": HEADS},
    "qwen3_5_moe_text": {"layer_types": GATED},
    "qwen3_5_text": {"layer_types": GATED},
    "qwen3_next": {"layer_types": GATED},
    "qwen4_exp_text": {"layer_types": GATED},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": (16, 16), "axial_pos_shape": (5, 8)},
    "xmod": {"languages": ("en_XX",), "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a config needs beside small sizes, by model type."""


WITHOUT = {
    "bailing_hybrid": "its router takes more experts than there are",
    "cohere_compass_text": "its rotary settings are of a vision model",
    "dbrx": "its parts have configs of their own",
    "dots1": "its default config has no number of experts",
    "gemma3n_text": "its layers share caches by number",
    "kimi_linear": "its router takes more experts than there are",
    "longcat_flash": "its heads have sizes that its config does not count",
    "mimo_v2_flash": "its window layers have heads that its config does not count",
    "neomme": "its rotary settings want larger heads",
    "perceiver": "its default config is 260 million weights, whatever the width",
    "qwen4_exp_text": "its default config has no sizes",
    "xlstm": "its kernels want whole chunks",
    "zamba": "its shared layers are tied by number",
    "zamba2": "its layers are listed one by one",
}
"""Model types that one function does not build tiny, and why."""
PARTS = {"attn_config", "ffn_config", "esmfold_config"}
"""Configs inside a config that do not make it one of several modalities."""


def model_types() -> list[str]:
    """Return the model types that read tokens alone: with a class for the next token, a masked one, or an encoder."""
    names = {
        **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    }
    configs: Any = configuration_auto.CONFIG_MAPPING
    return sorted(name for name in names if set(configs[name].sub_configs) <= PARTS)


def tiny_model(model_type: str, **more: Any) -> Any:
    """Return a model of random weights, with its head if it has one: its default config with small sizes."""
    kind = configuration_auto.CONFIG_MAPPING[model_type]
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY} if hasattr(kind(), "vocab_size") else {}
    for key, value in kind().to_dict().items():
        if type(value) is int and value > 0:
            size = next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), None)
            if size is not None:
                sizes[key] = size
            elif TOKEN.fullmatch(key) and value >= VOCABULARY:
                sizes[key] = value % VOCABULARY
    config = kind(**{**sizes, **MORE.get(model_type, {}), **more})
    mappings: Any = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING,
        modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING,
    )
    torch.manual_seed(0)
    model = next(mapping[kind] for mapping in mappings if kind in mapping)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # scales of 1 and biases of 0 would hide what they do
            weight.add_(0.05 * torch.randn_like(weight))
    return model
