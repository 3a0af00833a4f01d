"""Conversions between our transformer and the state dicts of TransformerLens, exact both ways.

The config has the keys of the config.json of the published toy models (solu-1l, gelu-4l, ...), which are also those of
`HookedTransformerConfig`. Weights are used as they are: no LayerNorm is folded and nothing is centered, so activations
are those of `HookedTransformer.from_pretrained_no_processing`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models.build import MADE
from models.exchange.shape import LAYER_NORM_EPS, Shape, build, shape_of
from models.transformer import Block, Transformer

ACT_FNS = ("solu_ln", "solu", "gelu", "relu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
TANH = ACT_FNS[4:]
BUFFERS = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos")
SIZES = ("d_model", "n_layers", "d_head", "n_ctx", "d_vocab")
ONLY = {
    "eps": (LAYER_NORM_EPS,),
    "ln_eps": (LAYER_NORM_EPS,),
    "positional_embedding_type": ("standard", "rotary"),
    "normalization": ("LN", "LNPre"),
    "normalization_type": ("LN", "LNPre"),
    "attention_dir": ("causal",),
    "use_attn_scale": (True,),
    "rotary_base": (10_000,),
    **dict.fromkeys(
        (
            "shortformer_pos",
            "final_rms",
            "gated_mlp",
            "use_local_attn",
            "use_qk_norm",
            "post_embedding_ln",
            "scale_attn_by_inverse_layer_idx",
            "rotary_adjacent_pairs",
            "use_normalization_before_and_after",
        ),
        (False,),
    ),
}
"""Keys of a config that change what the model computes, with the values allowed here; a missing key is fine."""


def shape_in(config: Mapping[str, Any]) -> Shape:
    """Return the shape that a config describes.

    Raises:
        ValueError: If sizes are missing or inconsistent, or the config asks for what our transformer does not have.
    """
    missing = [key for key in SIZES if not isinstance(config.get(key), int) or config[key] < 1]
    if missing:
        raise ValueError(f"the config has no {', '.join(missing)}; expected the keys of TransformerLens's config.json")
    for key, allowed in ONLY.items():
        if key in config and config[key] not in allowed:
            raise ValueError(f"its config has {key}={config[key]}, expected {' or '.join(map(str, allowed))}")
    d_model, d_head = config["d_model"], config["d_head"]
    n_heads = config.get("n_heads", -1)
    if d_head < 1 or d_model % d_head or n_heads not in (-1, d_model // d_head):
        raise ValueError(
            f"its config has d_model={d_model}, d_head={d_head}, n_heads={n_heads}, expected n_heads * d_head"
        )
    if config.get("n_key_value_heads") not in (None, d_model // d_head):
        raise ValueError(
            f"its config has n_key_value_heads={config['n_key_value_heads']}, expected {d_model // d_head}"
        )
    if config.get("attn_scale", -1) != -1 and not math.isclose(config["attn_scale"], math.sqrt(d_head)):
        raise ValueError(f"its config has attn_scale={config['attn_scale']}, expected {math.sqrt(d_head)}")
    act_fn = None if config.get("attn_only") else _act_fn(config)
    return Shape(
        **{key: config[key] for key in SIZES},
        activation=act_fn and act_fn.removesuffix("_ln"),
        d_mlp=None if act_fn is None else config.get("d_mlp"),
        mlp_norm=act_fn == "solu_ln",
        parallel=bool(config.get("parallel_attn_mlp")),
        d_rotary=(config.get("rotary_dim") or d_head) if config.get("positional_embedding_type") == "rotary" else None,
    )


def from_transformer_lens(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Transformer:
    """Return the net of a TransformerLens state dict, in float32: tokens (batch, pos) -> logits (batch, pos, d_vocab).

    Missing biases are 0, as in TransformerLens. With `normalization: LNPre` (folded), LayerNorms have scale 1 and
    bias 0.

    Raises:
        ValueError: As `shape_in`, or if weights are missing, unexpected, or of other sizes than in the config.
    """
    biased = "unembed.b_U" in state_dict and bool(state_dict["unembed.b_U"].any())
    shape = replace(shape_in(config), unembed_bias=biased)
    if shape.n_layers > len(state_dict):
        raise ValueError(f"its config has n_layers={shape.n_layers}, and there are {len(state_dict)} tensors")
    if shape.d_rotary is not None and shape.n_ctx * shape.d_rotary > MADE:
        raise ValueError(f"its config has n_ctx={shape.n_ctx}, expected at most {MADE // shape.d_rotary}")
    folded = "LNPre" in (config.get("normalization"), config.get("normalization_type"))
    with torch.device("meta"):  # weights that do not fit take no memory
        places = _views(build(shape))
    weights = {name: tensor for name, tensor in state_dict.items() if not name.endswith(BUFFERS)}
    needed = [name for name in places if not (_is_bias(name) or (folded and ".W_" not in name))]
    faults = [f"{name} is missing" for name in needed if name not in weights]
    faults += [f"{name} is unexpected" for name in weights if name not in places and name != "unembed.b_U"]
    for name in weights.keys() & places.keys():
        if weights[name].shape != places[name].shape:
            faults.append(f"{name} is {tuple(weights[name].shape)}, expected {tuple(places[name].shape)}")
    if faults:
        remainder = f" and {len(faults) - 4} more faults" if len(faults) > 4 else ""
        raise ValueError(f"the weights do not fit the config: {'; '.join(faults[:4])}{remainder}")
    net = build(shape)
    places = _views(net)
    with torch.no_grad():
        for name in weights.keys() & places.keys():
            places[name].copy_(weights[name])
    return net


def to_transformer_lens(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict and the config of our net; `HookedTransformerConfig.from_dict` reads the config.

    Raises:
        ValueError: If the net is not our transformer, or TransformerLens has no such activation.
    """
    shape = shape_of(net)
    assert isinstance(net, Transformer)
    if shape.mlp_norm and shape.activation != "solu":
        raise ValueError(f"TransformerLens has no LayerNorm after {shape.activation}, only after SoLU")
    state = {name: view.detach().clone(memory_format=torch.contiguous_format) for name, view in _views(net).items()}
    if "unembed.b_U" not in state:
        state["unembed.b_U"] = torch.zeros(shape.d_vocab)
    config: dict[str, Any] = {
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "n_heads": shape.n_heads,
        "d_head": shape.d_head,
        "d_mlp": shape.d_mlp,
        "n_ctx": shape.n_ctx,
        "d_vocab": shape.d_vocab,
        "act_fn": f"{shape.activation}_ln" if shape.mlp_norm else shape.activation,
        "attn_only": shape.activation is None,
        "normalization_type": "LN",
        "eps": LAYER_NORM_EPS,
        "positional_embedding_type": "standard" if shape.d_rotary is None else "rotary",
        "parallel_attn_mlp": shape.parallel,
        "final_rms": False,
        "tokenizer_name": None,
    }
    return state, config if shape.d_rotary is None else {**config, "rotary_dim": shape.d_rotary}


def _views(net: Transformer) -> dict[str, Tensor]:
    """Return every weight by its name in TransformerLens, as a view in its layout, to read or to overwrite."""
    views = {"embed.W_E": net.embed.weight}
    if net.pos_embed is not None:
        views["pos_embed.W_pos"] = net.pos_embed.weight
    for layer, block in enumerate(net.blocks):
        assert isinstance(block, Block)
        prefix, heads = f"blocks.{layer}.", (-1, net.d_head)
        attention, mlp = block.attn, block.mlp
        for part, weight, bias in zip(
            "QKV", attention.W_QKV.weight.chunk(3), attention.W_QKV.bias.chunk(3), strict=True
        ):
            views[f"{prefix}attn.W_{part}"] = weight.unflatten(0, heads).transpose(1, 2)
            views[f"{prefix}attn.b_{part}"] = bias.unflatten(0, heads)
        views[f"{prefix}attn.W_O"] = attention.W_O.weight.T.unflatten(0, heads)
        views[f"{prefix}attn.b_O"] = attention.W_O.bias
        norms = {"ln1": block.ln1}
        if mlp is not None and block.ln2 is not None:
            views[f"{prefix}mlp.W_in"], views[f"{prefix}mlp.b_in"] = mlp.W_in.weight.T, mlp.W_in.bias
            views[f"{prefix}mlp.W_out"], views[f"{prefix}mlp.b_out"] = mlp.W_out.weight.T, mlp.W_out.bias
            norms |= {"ln2": block.ln2} if mlp.ln is None else {"ln2": block.ln2, "mlp.ln": mlp.ln}
        for name, norm in norms.items():
            views[f"{prefix}{name}.w"], views[f"{prefix}{name}.b"] = norm.weight, norm.bias
    views["ln_final.w"], views["ln_final.b"] = net.ln_final.weight, net.ln_final.bias
    views["unembed.W_U"] = net.unembed.weight.T
    if net.unembed.bias is not None:
        views["unembed.b_U"] = net.unembed.bias
    return views


def _act_fn(config: Mapping[str, Any]) -> str:
    act_fn = config.get("act_fn")
    if act_fn not in ACT_FNS:
        raise ValueError(f"its config has act_fn={act_fn}, expected one of {', '.join(ACT_FNS)}")
    return "gelu_new" if act_fn in TANH else str(act_fn)


def _is_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1].startswith("b_")
