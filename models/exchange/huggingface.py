"""Conversions between our transformer and the classes of transformers that compute the same: GPT-2 and GPT-NeoX.

GPT-2 has learned positions, with attention and MLP one after the other, GPT-NeoX (Pythia) has rotary positions; both
have GELU or ReLU. SoLU, models without MLPs, a LayerNorm inside the MLP and a bias on the logits have no class there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.exchange.shape import LAYER_NORM_EPS, Shape, build, shape_of
from models.transformer import Block, Transformer

ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}
"""Our names of activations by those of transformers; the last three are one function."""
ROTARY_BASE = 10_000.0


def missing_class(net: nn.Module) -> str | None:
    """Return why transformers has no class for a net; None if it has one.

    Raises:
        ValueError: If the net is not our transformer.
    """
    shape = shape_of(net)
    if shape.activation is None:
        return "a model without MLPs"
    if shape.activation == "solu" or shape.mlp_norm:
        return "SoLU" if shape.activation == "solu" else "a LayerNorm inside the MLP"
    if shape.unembed_bias:
        return "a bias on the logits"
    if shape.parallel and shape.d_rotary is None:
        return "learned positions with attention and MLP in parallel"
    return None


def to_huggingface(net: nn.Module) -> Any:
    """Return a `GPT2LMHeadModel` or `GPTNeoXForCausalLM` in eval mode with the weights of a net and equal logits.

    Raises:
        ValueError: If the net is not our transformer, or there is no class for it.
    """
    if why := missing_class(net):
        raise ValueError(
            f"Hugging Face transformers has no class for {why}; expected GELU or ReLU in GPT-2's or GPT-NeoX's blocks"
        )
    assert isinstance(net, Transformer)
    shape = shape_of(net)
    model = _gpt2(shape) if shape.d_rotary is None else _gpt_neox(shape)
    parameters = dict(model.base_model.named_parameters())
    with torch.no_grad():
        for name, view in _views(net).items():
            parameters[name].copy_(view.reshape(parameters[name].shape))
        model.get_output_embeddings().weight.copy_(net.unembed.weight)
    return model.eval()


def from_huggingface(model: Any) -> Transformer:
    """Return our net with the weights of a `GPT2LMHeadModel` or `GPTNeoXForCausalLM` and equal logits.

    Raises:
        ValueError: If it has another class, or its config asks for what our transformer does not have.
    """
    kinds = {"gpt2": _shape_of_gpt2, "gpt_neox": _shape_of_gpt_neox}
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in kinds or model.get_output_embeddings() is None:
        raise ValueError(
            f"expected a GPT2LMHeadModel or a GPTNeoXForCausalLM, as our transformer is, found {type(model).__name__}"
        )
    net = build(kinds[kind](model.config))
    parameters, views = dict(model.base_model.named_parameters()), _views(net)
    if parameters.keys() != views.keys():
        raise ValueError(
            f"{type(model).__name__} has other weights: {', '.join(sorted(parameters.keys() ^ views.keys())[:4])}"
        )
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(parameters[name].reshape(view.shape))
        net.unembed.weight.copy_(model.get_output_embeddings().weight)
    return net


def _gpt2(shape: Shape) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.d_vocab,
            n_positions=shape.n_ctx,
            n_embd=shape.d_model,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_inner=shape.d_mlp,
            activation_function=str(shape.activation),
            layer_norm_epsilon=LAYER_NORM_EPS,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _gpt_neox(shape: Shape) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    share = shape.settings()["rotary_share"]
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=shape.d_vocab,
            max_position_embeddings=shape.n_ctx,
            hidden_size=shape.d_model,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            intermediate_size=int(shape.d_mlp or 0),
            hidden_act=str(shape.activation),
            layer_norm_eps=LAYER_NORM_EPS,
            use_parallel_residual=shape.parallel,
            rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE, "partial_rotary_factor": share},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _shape_of_gpt2(config: Any) -> Shape:
    _expect(
        config,
        layer_norm_epsilon=LAYER_NORM_EPS,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    return Shape(
        d_model=config.n_embd,
        n_layers=config.n_layer,
        d_head=config.n_embd // config.n_head,
        n_ctx=config.n_positions,
        d_vocab=config.vocab_size,
        activation=_activation(config.activation_function),
        d_mlp=config.n_inner or 4 * config.n_embd,
    )


def _shape_of_gpt_neox(config: Any) -> Shape:
    _expect(config, layer_norm_eps=LAYER_NORM_EPS, attention_bias=True)
    rotary, d_head = config.rope_parameters, config.hidden_size // config.num_attention_heads
    if rotary["rope_type"] != "default" or rotary["rope_theta"] != ROTARY_BASE:
        raise ValueError(
            f"its config has rope_parameters={rotary}, expected the default kind with base {ROTARY_BASE:g}"
        )
    return Shape(
        d_model=config.hidden_size,
        n_layers=config.num_hidden_layers,
        d_head=d_head,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        activation=_activation(config.hidden_act),
        d_mlp=config.intermediate_size,
        parallel=config.use_parallel_residual,
        d_rotary=int(d_head * rotary.get("partial_rotary_factor", 1.0)),
    )


def _views(net: Transformer) -> dict[str, Tensor]:
    """Return every weight but the unembedding by its name in transformers, as a view to be reshaped to its layout."""
    return _views_of_gpt2(net) if net.pos_embed is not None else _views_of_gpt_neox(net)


def _views_of_gpt2(net: Transformer) -> dict[str, Tensor]:
    """Return the views for GPT-2, whose `Conv1D` stores matrices as (in, out)."""
    assert net.pos_embed is not None
    views = {"wte.weight": net.embed.weight, "wpe.weight": net.pos_embed.weight}
    for layer, block in enumerate(net.blocks):
        assert isinstance(block, Block) and block.mlp is not None and block.ln2 is not None
        linear = {
            "attn.c_attn": block.attn.W_QKV,
            "attn.c_proj": block.attn.W_O,
            "mlp.c_fc": block.mlp.W_in,
            "mlp.c_proj": block.mlp.W_out,
        }
        for name, module in linear.items():
            views[f"h.{layer}.{name}.weight"], views[f"h.{layer}.{name}.bias"] = module.weight.T, module.bias
        for name, norm in {"ln_1": block.ln1, "ln_2": block.ln2}.items():
            views[f"h.{layer}.{name}.weight"], views[f"h.{layer}.{name}.bias"] = norm.weight, norm.bias
    return {**views, "ln_f.weight": net.ln_final.weight, "ln_f.bias": net.ln_final.bias}


def _views_of_gpt_neox(net: Transformer) -> dict[str, Tensor]:
    """Return the views for GPT-NeoX, which stores the queries, keys and values of one head together."""
    views = {"embed_in.weight": net.embed.weight}
    for layer, block in enumerate(net.blocks):
        assert isinstance(block, Block) and block.mlp is not None and block.ln2 is not None
        prefix, by_head = f"layers.{layer}.", (3, -1, net.d_head)
        packed = block.attn.W_QKV
        views[f"{prefix}attention.query_key_value.weight"] = packed.weight.unflatten(0, by_head).transpose(0, 1)
        views[f"{prefix}attention.query_key_value.bias"] = packed.bias.unflatten(0, by_head).transpose(0, 1)
        alike = {
            "attention.dense": block.attn.W_O,
            "mlp.dense_h_to_4h": block.mlp.W_in,
            "mlp.dense_4h_to_h": block.mlp.W_out,
            "input_layernorm": block.ln1,
            "post_attention_layernorm": block.ln2,
        }
        for name, module in alike.items():
            views[f"{prefix}{name}.weight"], views[f"{prefix}{name}.bias"] = module.weight, module.bias
    return {**views, "final_layer_norm.weight": net.ln_final.weight, "final_layer_norm.bias": net.ln_final.bias}


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"its config has activation {name}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _expect(config: Any, **values: Any) -> None:
    for key, value in values.items():
        if getattr(config, key) != value:
            raise ValueError(f"its config has {key}={getattr(config, key)}, expected {value}")
