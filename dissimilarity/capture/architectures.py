"""Architecture tables: the module at which each named site is read, for each known kind of model.

Our own models (and others with the same module names), GPT-2, GPT-NeoX, Llama and relatives (Mistral, Qwen, ...), Phi,
BLOOM and Falcon, OPT, BERT. Blocks of BERT end with their LayerNorm, so its residual stream is read after that
LayerNorm, and so is `resid_mid`.
"""

from dataclasses import dataclass
from typing import Literal

Side = Literal["input", "output"]


@dataclass(frozen=True)
class ModulePoint:
    """Where a site is read.

    Attributes:
        module: path of the module.
        side: its first argument (`input`) or its result (`output`).
    """

    module: str
    side: Side


@dataclass(frozen=True)
class Architecture:
    """Where the sites of one kind of model are.

    Attributes:
        blocks: path of the list of blocks, below any prefix.
        needs: paths that a model of this architecture has.
        sites: site name -> (module path, side), in depth order. `{i}` stands for the number of a block.
        excludes: paths that a model of this architecture does not have.
        sequential_only: sites that exist only if a block runs its MLP after its attention, not in parallel.
    """

    blocks: str
    needs: tuple[str, ...]
    sites: dict[str, tuple[str, Side]]
    excludes: tuple[str, ...] = ()
    sequential_only: tuple[str, ...] = ("blocks.{i}.resid_mid",)


OURS = Architecture(
    blocks="blocks",
    needs=(),
    sites={
        "embed": ("embed", "output"),
        "blocks.{i}.resid_pre": ("blocks.{i}", "input"),
        "blocks.{i}.attn_out": ("blocks.{i}.attn", "output"),
        "blocks.{i}.resid_mid": ("blocks.{i}.ln2", "input"),
        "blocks.{i}.mlp.pre": ("blocks.{i}.mlp.W_in", "output"),
        "blocks.{i}.mlp.mid": ("blocks.{i}.mlp.act", "output"),
        "blocks.{i}.mlp.post": ("blocks.{i}.mlp.W_out", "input"),
        "blocks.{i}.mlp_out": ("blocks.{i}.mlp", "output"),
        "blocks.{i}.resid_post": ("blocks.{i}", "output"),
        "ln_final": ("ln_final", "output"),
    },
)

GPT2 = Architecture(
    blocks="h",
    needs=("wte",),
    sites={
        "embed": ("wte", "output"),
        "blocks.{i}.resid_pre": ("h.{i}", "input"),
        "blocks.{i}.attn_out": ("h.{i}.attn", "output"),
        "blocks.{i}.resid_mid": ("h.{i}.ln_2", "input"),
        "blocks.{i}.mlp.pre": ("h.{i}.mlp.c_fc", "output"),
        "blocks.{i}.mlp.post": ("h.{i}.mlp.c_proj", "input"),
        "blocks.{i}.mlp_out": ("h.{i}.mlp", "output"),
        "blocks.{i}.resid_post": ("h.{i}", "output"),
        "ln_final": ("ln_f", "output"),
    },
)

GPT_NEOX = Architecture(
    blocks="layers",
    needs=("embed_in",),
    sites={
        "embed": ("embed_in", "output"),
        "blocks.{i}.resid_pre": ("layers.{i}", "input"),
        "blocks.{i}.attn_out": ("layers.{i}.attention", "output"),
        "blocks.{i}.resid_mid": ("layers.{i}.post_attention_layernorm", "input"),
        "blocks.{i}.mlp.pre": ("layers.{i}.mlp.dense_h_to_4h", "output"),
        "blocks.{i}.mlp.post": ("layers.{i}.mlp.dense_4h_to_h", "input"),
        "blocks.{i}.mlp_out": ("layers.{i}.mlp", "output"),
        "blocks.{i}.resid_post": ("layers.{i}", "output"),
        "ln_final": ("final_layer_norm", "output"),
    },
)

# Gemma 2 and OLMo 2 have Llama's names, but norms after their sublayers: `post_attention_layernorm` differs there.
LLAMA = Architecture(
    blocks="layers",
    needs=("embed_tokens", "layers.0.self_attn", "layers.0.mlp", "norm"),
    excludes=("layers.0.pre_feedforward_layernorm", "layers.0.post_feedforward_layernorm"),
    sites={
        "embed": ("embed_tokens", "output"),
        "blocks.{i}.resid_pre": ("layers.{i}", "input"),
        "blocks.{i}.attn_out": ("layers.{i}.self_attn", "output"),
        "blocks.{i}.resid_mid": ("layers.{i}.post_attention_layernorm", "input"),
        "blocks.{i}.mlp.pre": ("layers.{i}.mlp.gate_proj", "output"),
        "blocks.{i}.mlp.post": ("layers.{i}.mlp.down_proj", "input"),
        "blocks.{i}.mlp_out": ("layers.{i}.mlp", "output"),
        "blocks.{i}.resid_post": ("layers.{i}", "output"),
        "ln_final": ("norm", "output"),
    },
)

# Attention and MLP in parallel, as in GPT-NeoX, after one LayerNorm that both share.
PHI = Architecture(
    blocks="layers",
    needs=("embed_tokens", "layers.0.self_attn", "layers.0.mlp.fc1", "final_layernorm"),
    sites={
        "embed": ("embed_tokens", "output"),
        "blocks.{i}.resid_pre": ("layers.{i}", "input"),
        "blocks.{i}.attn_out": ("layers.{i}.self_attn", "output"),
        "blocks.{i}.mlp.pre": ("layers.{i}.mlp.fc1", "output"),
        "blocks.{i}.mlp.post": ("layers.{i}.mlp.fc2", "input"),
        "blocks.{i}.mlp_out": ("layers.{i}.mlp", "output"),
        "blocks.{i}.resid_post": ("layers.{i}", "output"),
        "ln_final": ("final_layernorm", "output"),
    },
)

# BLOOM's attention and MLP return their output with the stream already added, so it is not a site.
BLOOM = Architecture(
    blocks="h",
    needs=("word_embeddings", "h.0.self_attention"),
    sites={
        "embed": ("word_embeddings", "output"),
        "blocks.{i}.resid_pre": ("h.{i}", "input"),
        "blocks.{i}.mlp.pre": ("h.{i}.mlp.dense_h_to_4h", "output"),
        "blocks.{i}.mlp.post": ("h.{i}.mlp.dense_4h_to_h", "input"),
        "blocks.{i}.resid_post": ("h.{i}", "output"),
        "ln_final": ("ln_f", "output"),
    },
)

# OPT flattens all tokens for its MLP, so nothing is read there. The place of `resid_mid` depends on its config.
OPT = Architecture(
    blocks="layers",
    needs=("embed_tokens", "layers.0.self_attn_layer_norm", "layers.0.fc1"),
    sites={
        "embed": ("embed_tokens", "output"),
        "blocks.{i}.resid_pre": ("layers.{i}", "input"),
        "blocks.{i}.attn_out": ("layers.{i}.self_attn", "output"),
        "blocks.{i}.resid_post": ("layers.{i}", "output"),
        "ln_final": ("final_layer_norm", "output"),
    },
)

BERT = Architecture(
    blocks="encoder.layer",
    needs=("embeddings.word_embeddings", "encoder.layer.0.attention.output.dense"),
    sites={
        "embed": ("embeddings.word_embeddings", "output"),
        "blocks.{i}.resid_pre": ("encoder.layer.{i}", "input"),
        "blocks.{i}.attn_out": ("encoder.layer.{i}.attention.output.dense", "output"),
        "blocks.{i}.resid_mid": ("encoder.layer.{i}.attention.output", "output"),
        "blocks.{i}.mlp.pre": ("encoder.layer.{i}.intermediate.dense", "output"),
        "blocks.{i}.mlp.post": ("encoder.layer.{i}.output.dense", "input"),
        "blocks.{i}.mlp_out": ("encoder.layer.{i}.output.dense", "output"),
        "blocks.{i}.resid_post": ("encoder.layer.{i}", "output"),
    },
)

ARCHITECTURES = (OURS, GPT2, GPT_NEOX, LLAMA, PHI, BLOOM, OPT, BERT)
