"""Identity stitching by depth: the first blocks of one model and the rest of another, without a map between them.

The depth l counts the blocks taken from the front model. With l = 0 only its embedding enters the back model, before
the first block; with equal embeddings that is the back model unchanged. With l = L all blocks are the front's, and the
back model contributes its final norm and head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import check_enterable, enter
from dissimilarity.capture.forward import first_result
from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.capture.site_names import describe
from dissimilarity.capture.sites import site_table


def front_sites(model: nn.Module) -> list[str]:
    """Return the sites of a model's residual stream after 0, 1, ... L of its blocks.

    Raises:
        ValueError: the blocks of the model are not known, or it holds several networks.
    """
    table, sites = site_table(model), ["blocks.0.resid_pre"]
    while (site := f"blocks.{len(sites) - 1}.resid_post") in table:
        sites.append(site)
    if sites[0] not in table or len(sites) < 2:
        raise ValueError(
            f"expected a model with sites blocks.0.resid_pre and blocks.*.resid_post, found "
            f"{describe(table) or 'none'}; pass one network of a known architecture"
        )
    return sites


def front_streams(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> list[Float[Tensor, "batch pos d"]]:
    """Return a model's residual stream after 0, 1, ... L blocks, from one pass."""
    sites = front_sites(model)
    with capture(model, sites) as acts:
        model(tokens.to(device_of(model)))
    return [acts[site] for site in sites]


def fronted(
    back: nn.Module, streams: Sequence[Float[Tensor, "batch pos d"]], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "depths batch *logits"]:
    """Return the outputs of a model with its first 0, 1, ... L blocks replaced by those of another.

    Args:
        back: a model with as many blocks as the front model, and of the same width.
        streams: the front model's `front_streams`, on the same tokens.
        tokens: the sequences.

    Raises:
        ValueError: the numbers of blocks or the widths differ.
    """
    sites = front_sites(back)
    if len(sites) != len(streams):
        raise ValueError(
            f"expected models with equally many blocks, found {len(streams) - 1} in front and {len(sites) - 1} in the "
            "back; choose models of one shape"
        )
    check_enterable(back, sites[0], "the back model")
    outputs: list[Any] = []
    for site, stream in zip(sites, streams, strict=True):
        outputs.append(first_result(enter(back, site, stream, tokens)))
    return torch.stack(outputs)
