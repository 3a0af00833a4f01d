"""Losses of models on text that they were not trained on."""

import math

import torch
from torch import Tensor, nn

from dissimilarity.capture.enter import logits_of
from dissimilarity.capture.hooks import device_of, undisturbed
from dissimilarity.stitching.losses import sequence_losses
from dissimilarity.stitching.penalty import batches_of


def loss_of(net: nn.Module, tokens: Tensor) -> tuple[float, float]:
    """Mean loss of the next token, nats, and its standard error over sequences; NaN for a model without a head."""
    losses = []
    with undisturbed(net):
        for batch in batches_of(tokens):
            try:
                logits = logits_of(net(batch.to(device_of(net))))
            except ValueError:
                return math.nan, math.nan
            if logits.shape[-1] <= int(batch.max()):
                return math.nan, math.nan
            losses.append(sequence_losses(logits, batch).double().cpu())
    each = torch.cat(losses)
    return float(each.mean()), float(each.std() / len(each) ** 0.5)
