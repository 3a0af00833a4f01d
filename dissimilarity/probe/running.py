"""Run a model on some sequences of a probe set and read its sites as (sequences, positions, features)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dissimilarity.capture.call import MASKS, call, mask_argument
from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.capture.site_names import describe
from dissimilarity.capture.trial import lengths_explained
from dissimilarity.probe.padded_inputs import PaddedInputs
from dissimilarity.probe.site_layout import Channels, Layout, is_plain, layouts_of

Together = Literal["batches", "lengths", "rows"]
"""Which sequences run together: those of a batch, those of one length, or those of a batch with all of their padding.
"""

PADS = "_pad_to_"
"""Prefix of the method that pads the inputs of some models of transformers (Longformer)."""


class SiteReader:
    """A model that is run on sequences of a probe set and read at its sites.

    Args:
        model: the model.
        inputs: (sequences, ...), or with padding.
        sites: names of sites.
        channels: where features are at sites whose modules do not determine it.

    Raises:
        ValueError: activations of a site do not belong to sequences, or to the tokens of a sequence.
    """

    def __init__(
        self, model: nn.Module, inputs: Tensor | PaddedInputs, sites: Sequence[str], channels: Channels = None
    ) -> None:
        self.model, self.inputs, self.sites = model, inputs, list(sites)
        self.channels: Channels = channels
        tensor = inputs.inputs if isinstance(inputs, PaddedInputs) else inputs
        self.has_tokens = tensor.ndim == 2 and not tensor.is_floating_point()
        self.device = device_of(model) if any(True for _ in model.parameters()) else tensor.device
        self.together: Together = self._together(inputs) if isinstance(inputs, PaddedInputs) else "batches"
        self.layouts: dict[str, Layout] = {}

    def read(self, sequences: slice) -> dict[str, Tensor]:
        """Run the model on some sequences, and return site -> (sequences, positions, d), or (sequences, d)."""
        if isinstance(self.inputs, Tensor):
            return self._read(self.inputs[sequences], None)
        index = torch.arange(len(self.inputs))[sequences]
        if self.together == "rows":
            return self._read(self.inputs.inputs[index], self.inputs.mask[index])
        lengths = self.inputs.lengths[index]
        groups = [index[lengths == length] for length in lengths.unique()] if self.together == "lengths" else [index]
        parts = []
        for group in groups:
            acts = self._read(*self.inputs.rows(group))
            parts.append({site: self.inputs.in_place(act, group) for site, act in acts.items()})
        order = torch.cat(groups).argsort().to(self.device)
        return {site: torch.cat([part[site] for part in parts])[order] for site in self.sites}

    def _read(self, inputs: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Run the model once."""
        inputs = inputs.to(self.device)
        with lengths_explained(self.model, inputs), capture(self.model, self.sites) as acts:
            call(self.model, inputs, mask)
        count, length = len(inputs), inputs.shape[1] if self.has_tokens else None
        if not self.layouts:
            self.layouts = (
                dict.fromkeys(self.sites, Layout())
                if length is not None and self.channels is None and self._is_plain(acts, count, length)
                else layouts_of(self.model, self.sites, self._first_rows, self.channels)
            )
        return {site: self._arranged(site, acts[site], count, length) for site in self.sites}

    def _is_plain(self, acts: Mapping[str, Tensor], count: int, length: int) -> bool:
        """Return whether all activations are (sequences, positions, d) beyond doubt."""
        if count == length:  # a square may be either way around; a single sequence is not square
            inputs, mask = self._first_rows(1)
            count, length = 1, inputs.shape[1]
            with capture(self.model, self.sites) as acts:
                call(self.model, inputs, mask)
        return is_plain(self.model, acts, (count, length))

    def _arranged(self, site: str, activation: Tensor, count: int, length: int | None) -> Tensor:
        """Return an activation with its sequences first and its features last, at the positions of the tokens alone."""
        if self.layouts[site].folded and len(activation) % count:
            raise ValueError(
                f"expected activations that divide into {count} sequences, found {tuple(activation.shape)} at {site}; "
                "choose a site that has samples of every sequence"
            )
        arranged = self.layouts[site].apply(_as_numbers(site, activation), count)
        if length is None or arranged.ndim < 3 or arranged.shape[1] <= length:
            return arranged
        if arranged.shape[1] - length == _prompt_length(self.model):
            return arranged[:, -length:]
        if any(name.startswith(PADS) for module in self.model.modules() for name in dir(type(module))):
            return arranged[:, :length]
        raise ValueError(
            f"expected at most one sample per token at {site}, found activations {tuple(activation.shape)} of tokens "
            f"({count}, {length}): the model adds positions of its own, unclear which; choose another site"
        )

    def _first_rows(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Return the inputs and mask of this many sequences: the first two, repeated."""
        index = torch.arange(count) % min(2, len(self.inputs))
        if isinstance(self.inputs, Tensor):
            return self.inputs[index].to(self.device), None
        if self.together == "rows":
            return self.inputs.inputs[index].to(self.device), self.inputs.mask[index]
        inputs, mask = self.inputs.rows(index)
        return inputs.to(self.device), mask

    def _together(self, inputs: PaddedInputs) -> Together:
        """Return which sequences run together, after testing whether padding changes the activations of a text."""
        shortest, longest = inputs.lengths.argmin()[None], int(inputs.lengths.max())
        length = int(inputs.lengths[shortest])
        if length == longest:
            return "batches"
        passes = []
        for rows in (inputs.rows(shortest), inputs.rows(shortest, longest)):
            try:
                with capture(self.model, self.sites) as acts:
                    call(self.model, rows[0].to(self.device), rows[1])
            except (RuntimeError, ValueError, IndexError, AssertionError):
                self._test_padding(inputs, shortest)  # most likely the model takes inputs of one size only
                return "rows"
            passes.append(acts)
        alone, padded = passes
        changed = [site for site in self.sites if not _agree(alone[site], padded[site], length)]
        if not changed:
            return "batches"
        name, _ = mask_argument(self.model)
        reason = f"takes none of {', '.join(MASKS)}" if name is None else f"takes {name} and still reads padding"
        warnings.warn(
            f"padding after a text changes the activations of {type(self.model).__name__} at {describe(changed)}, and "
            f"its forward {reason}; sequences are run without padding, those of equal length together",
            stacklevel=2,
        )
        return "lengths"

    def _test_padding(self, inputs: PaddedInputs, row: Tensor) -> None:
        """Warn if other padding changes the activations of a text that is run with all of its padding."""
        padded, mask = inputs.inputs[row], inputs.mask[row]
        text, padding = padded[mask], padded[~mask]
        others = text[(text != padding[0]).flatten(1).any(1)] if text.ndim > 1 else text[text != padding[0]]
        if not len(others):
            return
        changed = padded.clone()
        changed[~mask] = others[0]
        passes = []
        for rows in (padded, changed):
            with capture(self.model, self.sites) as acts:
                call(self.model, rows.to(self.device), mask.to(self.device))
            passes.append({site: act[mask.to(act.device)] for site, act in acts.items() if act.shape[:2] == mask.shape})
        before, after = passes
        differ = [site for site in before if not _agree(before[site], after[site], len(text))]
        if differ:
            warnings.warn(
                f"{type(self.model).__name__} takes inputs of one size only, and padding changes the activations of "
                f"texts at {describe(differ)}: values depend on what the padding is; pass texts of that size instead",
                stacklevel=2,
            )


def _as_numbers(site: str, activation: Tensor) -> Tensor:
    """Return an activation as real numbers in a precision that has fractions."""
    if activation.is_complex():
        raise ValueError(f"expected real activations at {site}, found {activation.dtype}; choose another site")
    return activation if activation.is_floating_point() else activation.float()


def _prompt_length(model: nn.Module) -> int:
    """Return how many positions a model of peft puts before the text: the prompt that it learns."""
    adapted = (config for module in model.modules() if (config := getattr(module, "active_peft_config", None)))
    return next((config.num_virtual_tokens for config in adapted if config.is_prompt_learning), 0)


def _agree(alone: Tensor, padded: Tensor, length: int) -> bool:
    """Return whether activations of a text alone equal those of the text with padding after it, up to rounding.

    Dimensions that padding makes longer are cut.
    """
    if alone.ndim != padded.ndim:
        return False
    for dim, (size, longer) in enumerate(zip(alone.shape, padded.shape, strict=True)):
        if size > longer:
            return False
        padded = padded.narrow(dim, 0, size)
    if alone.shape == padded.shape and alone.ndim == 3 and alone.shape[1] > length:
        alone, padded = alone[:, :length], padded[:, :length]
    if not alone.is_floating_point():
        return torch.equal(alone, padded)
    dtype = torch.get_autocast_dtype(alone.device.type) if torch.is_autocast_enabled(alone.device.type) else alone.dtype
    lower = dtype if torch.finfo(dtype).eps > torch.finfo(alone.dtype).eps else alone.dtype
    largest = (alone - padded).abs().max()
    return bool(largest <= torch.finfo(lower).eps ** 0.5 * alone.float().std()) or bool(alone.isnan().any())
