"""Classifiers on labeled examples: how often they are right, as they are, stitched, and on the line between two."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.capture.hooks import first_result, undisturbed
from dissimilarity.probe.batches import cut_sequences, sequences_per_batch
from dissimilarity.stitching.block_swap import front_streams, fronted
from dissimilarity.stitching.connectivity import barrier_of, scores_between
from dissimilarity.stitching.penalty import device_of

Pair = tuple[int, int]


@dataclass(frozen=True)
class Examples:
    """Some examples of one split.

    Attributes:
        tokens: (examples, pos), no longer than the longest.
        labels: (examples,) numbers of the split's own labels.
        classes: (model's labels,) the split's label that each of the model's counts as.
    """

    tokens: Int[Tensor, "examples pos"]
    labels: Int[Tensor, " examples"]
    classes: Int[Tensor, " classes"]

    def right(self, logits: Float[Tensor, "*depths rows classes"], rows: slice) -> Bool[Tensor, "*depths rows"]:
        """Whether the likeliest label of each row counts as its own."""
        return self.classes[logits.argmax(-1).cpu()] == self.labels[rows]


def examples_of(data: Any, split: str, count: int, real: Callable[[Tensor], Tensor]) -> Examples:
    """At most so many examples of a split, at even distances; `real` says which positions are text.

    Raises:
        ValueError: the split is empty.
    """
    tokens, labels = data.encoded(split)
    if not len(labels):
        raise ValueError(f"expected examples in the split {split}, found none; give it some, or leave it out")
    count = min(count, len(labels))
    rows = torch.arange(count) * len(labels) // count
    tokens = tokens[rows]
    longest = max(1, int(real(tokens).sum(1).max()))
    return Examples(tokens[:, :longest], labels[rows], data.classes_of(split))


def accuracy(model: nn.Module, examples: Examples) -> float:
    """Share of the examples on which a model is right."""
    right = []
    with undisturbed(model):
        for rows in batches(examples.tokens):
            logits = first_result(model(examples.tokens[rows].to(device_of(model))))
            right.append(examples.right(logits, rows))
    return float(torch.cat(right).double().mean())


def stitched(
    models: Sequence[nn.Module],
    pairs: Sequence[Pair],
    examples: Mapping[str, Examples],
    tell: Callable[[str], object],
) -> dict[str, dict[Pair, np.ndarray]]:
    """Accuracy of every pair stitched by the identity, with 0, 1, ... L blocks of the first one in front.

    Args:
        models: of one shape.
        pairs: (front, back), numbers of models.
        examples: by split.
        tell: hears what is being done.

    Returns:
        split -> pair -> (layers + 1,).
    """
    found: dict[str, dict[Pair, np.ndarray]] = {split: {} for split in examples}
    for split, these in examples.items():
        right: dict[Pair, Any] = {}
        for front in dict.fromkeys(front for front, _ in pairs):
            tell(f"stitching on {split}: front {front + 1} of {len(models)}")
            for rows in batches(these.tokens):
                tokens = these.tokens[rows]
                streams = front_streams(models[front], tokens)
                for pair in (pair for pair in pairs if pair[0] == front):
                    counted = these.right(fronted(models[pair[1]], streams, tokens), rows).sum(-1).double().numpy()
                    right[pair] = right.get(pair, 0) + counted
        found[split] = {pair: right[pair] / len(these.labels) for pair in pairs}
    return found


def barriers(
    models: Sequence[nn.Module], examples: Examples, points: int, tell: Callable[[str], object]
) -> tuple[np.ndarray, np.ndarray]:
    """The barriers in loss (nats per example) and in error (share of examples) between every two models.

    Returns:
        two of (models, models), symmetric, 0 on the diagonal.
    """
    loss, error = (np.zeros((len(models), len(models))) for _ in range(2))

    def score(logits: Tensor, rows: slice) -> Tensor:
        labels = examples.labels[rows].to(logits.device)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        return torch.stack([losses.cpu(), (~examples.right(logits, rows)).float()], 1)

    for a in range(len(models)):
        tell(f"barriers: model {a + 1} of {len(models)}")
        for b in range(a + 1, len(models)):
            scores = scores_between(models[a], models[b], examples.tokens, score, points)
            loss[a, b] = loss[b, a] = barrier_of(scores[..., 0]).value
            error[a, b] = error[b, a] = barrier_of(scores[..., 1]).value
    return loss, error


def batches(tokens: Int[Tensor, "examples pos"]) -> Iterator[slice]:
    """Some examples at a time."""
    for start, stop, _ in cut_sequences(len(tokens), 1, sequences_per_batch(tokens.shape[1])):
        yield slice(start, stop)
