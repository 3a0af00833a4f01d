"""One decoder-only transformer for every family; families differ in their YAML files in conf/model.

It has pre-LN blocks, untied embeddings, and biases in attention and MLP but none in the unembedding, where the bias of
ln_final already shifts every logit. Names and sizes follow TransformerLens.

Shape suffixes: B batch, T position, D d_model, H head, K d_head, M d_mlp, V d_vocab.
"""

import hashlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.rotary import Rotary

# In bf16 on a processor, torch's fused attention takes up to twice as long, forward and backward, as products with
# scores in float32, which are as precise (two AMX cores, torch 2.13, 8 heads of 64: 42 against 21 ms for 16 x 128
# tokens, 23 against 17 for 8 x 192). Scores in bf16 would halve that again, and cost a digit where attention is sharp.
PRODUCTS_UP_TO = 192


def causal_attention(
    q_BHTK: Float[Tensor, "batch head pos d_head"],
    k_BHTK: Float[Tensor, "batch head pos d_head"],
    v_BHTK: Float[Tensor, "batch head pos d_head"],
) -> Float[Tensor, "batch head pos d_head"]:
    """Return the mean of the values at earlier positions and this one, weighted by softmax(q k / sqrt(d_head)).

    Examples:
        >>> x = torch.eye(2)[None, None]
        >>> causal_attention(0 * x, x, x)
        tensor([[[[1.0000, 0.0000],
                  [0.5000, 0.5000]]]])
    """
    n_pos, d_head = v_BHTK.shape[-2:]
    bf16_on_cpu = v_BHTK.device.type == "cpu" and v_BHTK.dtype == torch.bfloat16
    if bf16_on_cpu and v_BHTK.requires_grad and n_pos <= PRODUCTS_UP_TO:
        later = torch.full((n_pos, n_pos), -torch.inf).triu(1)
        queries, keys, values = (part.flatten(0, 1) for part in (q_BHTK, k_BHTK, v_BHTK))
        with torch.autocast("cpu", enabled=False):
            scores = torch.baddbmm(later, queries.float(), keys.float().mT, alpha=1 / math.sqrt(d_head))
            return torch.bmm(scores.softmax(-1).to(values.dtype), values).view_as(v_BHTK)
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)


class Attention(nn.Module):
    """Causal multi-head self-attention; the rows of `W_QKV` are queries, keys and values, each by head."""

    def __init__(self, d_model: int, d_head: int, rotary: Rotary | None) -> None:
        super().__init__()
        self.d_head = d_head
        self.W_QKV = nn.Linear(d_model, 3 * d_model)
        self.W_O = nn.Linear(d_model, d_model)
        self.rotary = rotary

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the output of all heads."""
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (-1, self.d_head)).transpose(1, 2) for part in self.W_QKV(x_BTD).chunk(3, dim=-1)
        )
        if self.rotary is not None:
            q_BHTK, k_BHTK = self.rotary(q_BHTK), self.rotary(k_BHTK)
        z_BHTK = causal_attention(q_BHTK, k_BHTK, v_BHTK)
        return self.W_O(z_BHTK.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The MLP W_out(ln(act(W_in x))), with `ln` only in families that normalize the neurons (SoLU)."""

    def __init__(self, d_model: int, d_mlp: int, activation: nn.Module, norm: bool) -> None:
        super().__init__()
        self.W_in = nn.Linear(d_model, d_mlp)
        self.act = activation
        self.ln = nn.LayerNorm(d_mlp) if norm else None
        self.W_out = nn.Linear(d_mlp, d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the output of the MLP."""
        h_BTM = self.act(self.W_in(x_BTD))
        return self.W_out(h_BTM if self.ln is None else self.ln(h_BTM))


class Block(nn.Module):
    """A block of the residual stream: attention, then MLP; both in parallel; or attention alone."""

    def __init__(self, d_model: int, attn: Attention, mlp: MLP | None, parallel: bool) -> None:
        super().__init__()
        self.parallel = parallel
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = attn
        self.ln2 = nn.LayerNorm(d_model) if mlp is not None else None
        self.mlp = mlp

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the residual stream after the block."""
        mid_BTD = x_BTD + self.attn(self.ln1(x_BTD))
        if self.mlp is None or self.ln2 is None:
            return mid_BTD
        return mid_BTD + self.mlp(self.ln2(x_BTD if self.parallel else mid_BTD))

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of this block, in depth order."""
        names = ["resid_pre", "attn_out"]
        if self.mlp is not None:
            names += [] if self.parallel else ["resid_mid"]
            names += ["mlp.pre"] if self.mlp.ln is None else ["mlp.pre", "mlp.mid"]
            names += ["mlp.post", "mlp_out"]
        return (*names, "resid_post")


class Transformer(nn.Module):
    """A language model from tokens (batch, pos) to logits (batch, pos, d_vocab).

    Initial weights are those of the TransformerLens toy models: N(0, 0.02), learned positions half that, W_O and W_out
    divided by sqrt(n_layers), biases 0, LayerNorm scales 1. The constructor takes one number from the global generator
    of torch and draws each parameter from its own generator, seeded by that number and the parameter's name. Families
    of the same width and depth built from the same seed therefore agree exactly in every parameter that they share.

    Args:
        d_model: Width of the residual stream, a multiple of `d_head`.
        n_layers: Number of blocks.
        d_head: Width of an attention head; n_heads = d_model / d_head.
        n_ctx: Longest sequence, in tokens.
        d_vocab: Size of the vocabulary.
        activation: Makes the activation module of a block; None for a model without MLPs.
        d_mlp: Neurons per MLP; None = 4 * d_model.
        mlp_norm: Whether there is a LayerNorm between the activation and W_out.
        parallel: Whether attention and MLP read the same stream (GPT-NeoX) instead of one after the other.
        rotary_share: Share of each head that rotary positions rotate; None = learned absolute positions.
        unembed_bias: Whether the logits have a bias; no family of this project has one, but other models may.

    Raises:
        ValueError: If d_head does not divide d_model, or a sequence is longer than n_ctx.
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_layers: int,
        d_head: int,
        n_ctx: int,
        d_vocab: int,
        activation: Callable[[], nn.Module] | None,
        d_mlp: int | None = None,
        mlp_norm: bool = False,
        parallel: bool = False,
        rotary_share: float | None = None,
        unembed_bias: bool = False,
    ) -> None:
        super().__init__()
        if d_model % d_head or d_model < d_head:
            below = d_model // d_head * d_head
            valid_widths = f"width={below} or width={below + d_head}" if below else f"width={d_head}"
            raise ValueError(f"width {d_model} does not divide into heads of d_head={d_head}: type {valid_widths}")
        init_seed = int(torch.randint(2**62, (), device="cpu"))
        self.d_model, self.n_layers, self.d_head, self.n_ctx, self.d_vocab = d_model, n_layers, d_head, n_ctx, d_vocab
        self.embed = nn.Embedding(d_vocab, d_model)
        self.pos_embed = nn.Embedding(n_ctx, d_model) if rotary_share is None else None
        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            rotary = None if rotary_share is None else Rotary(int(d_head * rotary_share), n_ctx)
            mlp = None if activation is None else MLP(d_model, d_mlp or 4 * d_model, activation(), mlp_norm)
            self.blocks.append(Block(d_model, Attention(d_model, d_head, rotary), mlp, parallel))
        self.ln_final = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, d_vocab, bias=unembed_bias)
        if not self.embed.weight.is_meta:
            self._init_weights(init_seed)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return next-token logits at every position."""
        return self.unembed(self.features(tokens))

    def features(
        self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the residual stream after ln_final, from which logits are computed.

        Padding needs no mask: each position reads only earlier ones, and padding comes last.
        """
        length = tokens.shape[1]
        if length > self.n_ctx:
            raise ValueError(f"sequence of {length} tokens, but this model reads at most n_ctx={self.n_ctx}")
        x_BTD = self.embed(tokens)
        if self.pos_embed is not None:
            x_BTD = x_BTD + self.pos_embed(torch.arange(length, device=tokens.device))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.ln_final(x_BTD)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of this model, in depth order: names of TransformerLens without `hook_`."""
        names = ["embed"]
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            names += [f"blocks.{i}.{name}" for name in block.sites]
        return (*names, "ln_final")

    @torch.no_grad()
    def _init_weights(self, seed: int) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            elif parameter.ndim > 1:
                std = 0.02
                if name == "pos_embed.weight":
                    std /= 2
                elif name.endswith(("W_O.weight", "W_out.weight")):
                    std /= math.sqrt(self.n_layers)
                digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
                draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu")
                parameter.copy_(draw * std)
