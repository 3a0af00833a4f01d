"""Classifiers on labeled examples: accuracy as they are, stitched, and on the line between two models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dissimilarity.capture.forward import first_result, undisturbed
from dissimilarity.capture.hooks import device_of
from dissimilarity.probe.batches import cut_sequences, sequences_per_batch
from dissimilarity.stitching.block_swap import front_streams, fronted
from dissimilarity.stitching.connectivity import barrier_of, scores_between

Pair = tuple[int, int]


@dataclass(frozen=True)
class Examples:
    """Examples of one split.

    Attributes:
        tokens: (examples, pos), cut to the longest text.
        labels: (examples,) indices of the split's own labels.
        classes: (model labels,) the split's label that each label of the model counts as.
    """

    tokens: Int[Tensor, "examples pos"]
    labels: Int[Tensor, " examples"]
    classes: Int[Tensor, " classes"]

    def correct(self, logits: Float[Tensor, "*depths rows classes"], rows: slice) -> Bool[Tensor, "*depths rows"]:
        """Return whether the most likely label of each example is correct."""
        return self.classes[logits.argmax(-1).cpu()] == self.labels[rows]


def examples_of(data: Any, split: str, count: int, mask: Callable[[Tensor], Tensor]) -> Examples:
    """Return at most `count` evenly spaced examples of a split.

    Args:
        data: labeled data.
        split: name of the split.
        count: maximum number of examples.
        mask: returns which positions of tokens are text.

    Raises:
        ValueError: The split is empty.
    """
    tokens, labels = data.encoded(split)
    if not len(labels):
        raise ValueError(f"expected examples in the split {split}, found none; add some, or leave the split out")
    count = min(count, len(labels))
    rows = torch.arange(count) * len(labels) // count
    tokens = tokens[rows]
    longest = max(1, int(mask(tokens).sum(1).max()))
    return Examples(tokens[:, :longest], labels[rows], data.classes_of(split))


def accuracy(model: nn.Module, examples: Examples) -> float:
    """Return the share of the examples that a model classifies correctly."""
    correct = []
    with undisturbed(model):
        for rows in batches(examples.tokens):
            logits = first_result(model(examples.tokens[rows].to(device_of(model))))
            correct.append(examples.correct(logits, rows))
    return float(torch.cat(correct).double().mean())


def stitched(
    models: Sequence[nn.Module],
    pairs: Sequence[Pair],
    examples: Mapping[str, Examples],
    on_progress: Callable[[str], object],
) -> dict[str, dict[Pair, np.ndarray]]:
    """Return the accuracy of every pair stitched by the identity, with 0, 1, ... L blocks of the first one in front.

    Args:
        models: models of one shape.
        pairs: (front, back), positions among the models.
        examples: split -> its examples.
        on_progress: called with a status message.

    Returns:
        split -> pair -> (layers + 1,).
    """
    accuracies: dict[str, dict[Pair, np.ndarray]] = {split: {} for split in examples}
    for split, in_split in examples.items():
        correct: dict[Pair, Any] = {}
        for front in dict.fromkeys(front for front, _ in pairs):
            on_progress(f"stitching on {split}: front {front + 1} of {len(models)}")
            for rows in batches(in_split.tokens):
                tokens = in_split.tokens[rows]
                streams = front_streams(models[front], tokens)
                for pair in (pair for pair in pairs if pair[0] == front):
                    logits = fronted(models[pair[1]], streams, tokens)
                    correct[pair] = correct.get(pair, 0) + in_split.correct(logits, rows).sum(-1).double().numpy()
        accuracies[split] = {pair: correct[pair] / len(in_split.labels) for pair in pairs}
    return accuracies


def barriers(
    models: Sequence[nn.Module], examples: Examples, points: int, on_progress: Callable[[str], object]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the barriers in loss (nats per example) and in error (share of examples) between every two models.

    Args:
        models: models of one shape.
        examples: losses and errors are measured on these.
        points: number of points on the line between two models' weights.
        on_progress: called with a status message.

    Returns:
        Two arrays (models, models), symmetric, 0 on the diagonal.
    """
    loss, error = (np.zeros((len(models), len(models))) for _ in range(2))

    def score(logits: Tensor, rows: slice) -> Tensor:
        labels = examples.labels[rows].to(logits.device)
        losses = cross_entropy(logits.float(), labels, reduction="none")
        return torch.stack([losses.cpu(), (~examples.correct(logits, rows)).float()], 1)

    for a in range(len(models)):
        on_progress(f"barriers: model {a + 1} of {len(models)}")
        for b in range(a + 1, len(models)):
            scores = scores_between(models[a], models[b], examples.tokens, score, points)
            loss[a, b] = loss[b, a] = barrier_of(scores[..., 0]).value
            error[a, b] = error[b, a] = barrier_of(scores[..., 1]).value
    return loss, error


def batches(tokens: Int[Tensor, "examples pos"]) -> Iterator[slice]:
    """Yield batches of examples."""
    for start, stop, _ in cut_sequences(len(tokens), 1, sequences_per_batch(tokens.shape[1])):
        yield slice(start, stop)
