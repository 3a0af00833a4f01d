"""Models whose stitches are known beforehand: a small trained model, and copies of it in another basis."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.stitching.losses import sequence_losses
from tests.helpers.families import family_net

D_VOCAB = 31


def text(sequences: int, seed: int = 0, length: int = 12) -> Tensor:
    """Draw a Markov chain over 31 words, each with few successors."""
    table = torch.Generator().manual_seed(99)
    chances = (4 * torch.randn(D_VOCAB, D_VOCAB, generator=table)).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    words = [torch.randint(D_VOCAB, (sequences,), generator=generator)]
    for _ in range(length - 1):
        words.append(torch.multinomial(chances[words[-1]], 1, generator=generator)[:, 0])
    return torch.stack(words, 1)


def trained(family: str = "gelu", width: int = 64, depth: int = 2, seed: int = 0, steps: int = 60) -> Any:
    """Train a model of a family on the chain a little; the norms of its stream keep scale 1 and shift 0."""
    torch.manual_seed(seed)
    net = family_net(family, d_vocab=D_VOCAB, seed=seed, width=width, depth=depth)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(".ln" not in f".{name}")
    optimizer = torch.optim.Adam([parameter for parameter in net.parameters() if parameter.requires_grad], lr=5e-3)
    for step in range(steps):
        tokens = text(16, seed=1000 + step)
        loss = sequence_losses(net(tokens), tokens).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.zero_grad()
    return net.requires_grad_()


def rotation(width: int, seed: int = 0) -> Tensor:
    """Draw an orthogonal matrix that maps the vector of ones to itself, so that it passes through a LayerNorm."""
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(width, 1, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, torch.randn(width, width - 1, generator=generator).double()], 1)).Q
    inner = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=generator).double()).Q
    whole = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), inner)
    return basis @ whole @ basis.T


@torch.no_grad()
def in_other_basis(net: Any, turn: Tensor) -> Any:
    """Return a copy that computes the same function with x turn in place of every stream x."""
    other = deepcopy(net)
    turn = turn.to(other.embed.weight)
    for name, module in other.named_modules():
        if isinstance(module, nn.Embedding) or name.endswith(("W_QKV", "W_in", "unembed")):
            module.weight.copy_(module.weight @ turn)
        elif name.endswith(("W_O", "W_out")):
            module.weight.copy_(turn.T @ module.weight)
            module.bias.copy_(module.bias @ turn)
    return other
