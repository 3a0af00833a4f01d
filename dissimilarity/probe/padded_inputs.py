"""Inputs with padding, in the form that models read: each text at the start of its row.

The place of padding is not a property of a text. Each text is therefore moved to the start of its row, which gives it
the same positions as without padding. Each batch is cut to its longest text, and a mask marks the padding that remains
after the shorter ones.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PaddedInputs:
    """Sequences of unequal length.

    Attributes:
        inputs: (sequences, positions, ...), with padding on any side.
        mask: which positions are real, at least one in every sequence.

    >>> padded = PaddedInputs(torch.tensor([[0, 0, 5], [7, 8, 9]]), torch.tensor([[False, False, True], [True] * 3]))
    >>> padded.rows(torch.tensor([0]))[0]
    tensor([[5]])
    """

    inputs: Shaped[Tensor, "sequences positions *rest"]
    mask: Bool[Tensor, "sequences positions"]

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def starts(self) -> Int[Tensor, " sequences"]:
        """The first real position of each sequence."""
        return text_starts(self.mask)

    @cached_property
    def lengths(self) -> Int[Tensor, " sequences"]:
        """Positions of each sequence from its first real one to its last."""
        return text_lengths(self.mask)

    def rows(self, index: Int[Tensor, " part"], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Return some sequences from their first real position on, and which positions of them are real.

        Args:
            index: which sequences.
            length: number of positions; by default those of the longest of these sequences.
        """
        length = int(self.lengths[index].max()) if length is None else length
        mask = self.mask[index]
        starts = self.starts[index]
        return rolled(self.inputs[index], starts)[:, :length], rolled(mask, starts)[:, :length]

    def in_place(self, activation: Tensor, index: Int[Tensor, " part"]) -> Tensor:
        """Return activations of ``rows`` at the positions where the inputs have them, zero elsewhere.

        Activations that do not have one sample per position stay as they are.
        """
        if activation.ndim < 3 or activation.shape[1] > self.mask.shape[1]:
            return activation
        padded = activation.new_zeros(len(activation), self.mask.shape[1], *activation.shape[2:])
        padded[:, : activation.shape[1]] = activation
        return rolled(padded, -self.starts[index])


def text_starts(mask: Bool[Tensor, "sequences positions"]) -> Int[Tensor, " sequences"]:
    """Return the first real position of each sequence.

    >>> text_starts(torch.tensor([[False, True, True], [True, True, False]])).tolist()
    [1, 0]
    """
    return mask.int().argmax(1)


def text_lengths(mask: Bool[Tensor, "sequences positions"]) -> Int[Tensor, " sequences"]:
    """Return how many positions each sequence has from its first real one to its last.

    >>> text_lengths(torch.tensor([[False, True, True], [True, False, False]])).tolist()
    [2, 1]
    """
    return mask.shape[1] - mask.flip(1).int().argmax(1) - text_starts(mask)


def rolled(
    values: Shaped[Tensor, "part positions *rest"], by: Int[Tensor, " part"]
) -> Shaped[Tensor, "part positions *rest"]:
    """Return each sequence rolled to the left by its own number of positions.

    >>> rolled(torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([1, 0])).tolist()
    [[1, 2, 0], [0, 1, 2]]
    """
    if not bool(by.any()):
        return values
    positions = (torch.arange(values.shape[1], device=by.device) + by[:, None]) % values.shape[1]
    return values[torch.arange(len(values))[:, None], positions.to(values.device)]
