"""Identity stitching by depth: the first layers of one model and the rest of another, with nothing between them.

    streams = front_streams(front, tokens)   # of the front, once
    outputs = fronted(back, streams, tokens) # what back makes of each: 0, 1, ... L layers from the front

l counts the blocks taken from the front: 0 = its embedding alone, put in before the back's first block; L = all its
blocks, of which the back does its final norm and head. With l = 0 and equal embeddings the back model is as it was.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import check_enterable, enter
from dissimilarity.capture.hooks import capture, first_result
from dissimilarity.capture.sites import describe, site_table
from dissimilarity.stitching.penalty import device_of


def front_sites(model: nn.Module) -> list[str]:
    """Where a model is left, or entered, after 0, 1, ... L of its blocks.

    Raises:
        ValueError: its blocks are not known, or it holds several networks.
    """
    table, sites = site_table(model), ["blocks.0.resid_pre"]
    while (after := f"blocks.{len(sites) - 1}.resid_post") in table:
        sites.append(after)
    if sites[0] not in table or len(sites) < 2:
        raise ValueError(
            f"expected a model with sites blocks.0.resid_pre and blocks.*.resid_post, found "
            f"{describe(table) or 'none'}; pass one network of a known architecture"
        )
    return sites


def front_streams(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> list[Float[Tensor, "batch pos d"]]:
    """The residual stream after 0, 1, ... L blocks."""
    sites = front_sites(model)
    with capture(model, sites) as acts:
        model(tokens.to(device_of(model)))
    return [acts[site] for site in sites]


def fronted(
    back: nn.Module, streams: Sequence[Float[Tensor, "batch pos d"]], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "depths batch *logits"]:
    """What a model puts out with 0, 1, ... L blocks taken from another.

    Args:
        back: of as many blocks as the front, and of its width.
        streams: of `front_streams`, on the same tokens.

    Raises:
        ValueError: another number of blocks, or another width.
    """
    sites = front_sites(back)
    if len(sites) != len(streams):
        raise ValueError(
            f"expected models of equally many blocks, found {len(streams) - 1} in front and {len(sites) - 1} behind; "
            "choose models of one shape"
        )
    check_enterable(back, sites[0], "the back model")
    outputs: list[Any] = []
    for site, stream in zip(sites, streams, strict=True):
        outputs.append(first_result(enter(back, site, stream, tokens)))
    return torch.stack(outputs)
