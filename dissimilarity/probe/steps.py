"""Run a model on a whole probe set block by block: every sequence passes a block before any reads the next one.

A block's weights are then needed once, and of the activations only those of one block exist at a time. The model's own
``forward`` runs on a few sequences of equal length at a time, and pauses before each block and before the head.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.capture.call import call
from dissimilarity.capture.forward import first_argument, first_result, undisturbed
from dissimilarity.capture.hooks import device_of
from dissimilarity.capture.offloaded import held
from dissimilarity.capture.paused import PausedCall
from dissimilarity.capture.points import ModulePoint, blocks_of
from dissimilarity.capture.sites import locate
from dissimilarity.probe.alignment import Reading
from dissimilarity.probe.padded_inputs import PaddedInputs
from dissimilarity.probe.together import TOKENS_PER_PASS


class NotInStepsError(ValueError):
    """A model does not run block by block; it can still be run as a whole."""


Group = tuple[Tensor, Tensor]
"""Places of some sequences in the probe set, and their tokens (sequences, positions), which are equally many."""


def groups_of(inputs: Tensor | Reading) -> list[Group]:
    """Divide the sequences of a probe set into groups of equal length, without padding.

    Examples:
        >>> [tuple(tokens.shape) for _, tokens in groups_of(torch.zeros(20, 256, dtype=torch.long))]
        [(4, 256), (4, 256), (4, 256), (4, 256), (4, 256)]
    """
    rows = inputs.inputs if isinstance(inputs, Reading) else inputs
    every = torch.arange(len(rows))
    if isinstance(rows, PaddedInputs):
        alike = [every[rows.lengths == length] for length in rows.lengths.unique()]
        parts = [part for index in alike for part in index.split(_together(int(rows.lengths[index[0]])))]
        return [(part, rows.rows(part)[0]) for part in parts]
    return [(part, rows[part]) for part in every.split(_together(rows.shape[1]))]


def _together(length: int) -> int:
    return max(1, TOKENS_PER_PASS // length)


class Steps:
    """Forward passes of a model over groups of sequences, which stop together before each block.

    Args:
        model: a model that runs on tokens.
        groups: from ``groups_of``.
        sites: names of sites to read.

    Attributes:
        acts: per group, site -> activations (sequences, positions, d) of the last step.
        is_at_head: whether all that is left is the head, whose results are the logits.
        has_ended: whether all passes have.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], sites: Sequence[str]) -> None:
        self.model, self.groups, self.points = model, groups, locate(model, sites)
        self.acts: list[dict[str, Tensor]] = [{} for _ in groups]
        self.is_at_head = self.has_ended = False
        self._head = _head_of(model)
        self._passes = [PausedCall(partial(self._run, number)) for number in range(len(groups))]
        self._current, self._release = 0, lambda: None
        self._seen: list[set[str]] = [set() for _ in groups]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Set the hooks that pause the model and read it, and remove them afterwards."""
        with undisturbed(self.model), _without_cache(self.model), held(self.model) as release, ExitStack() as stack:
            self._release = release
            for module in [*blocks_of(self.model), *([] if self._head is None else [self._head])]:
                stack.callback(module.register_forward_pre_hook(self._pause, prepend=True).remove)
            for site, point in self.points.items():
                stack.callback(self._hook(site, point).remove)
            for paused in self._passes:
                stack.callback(paused.close)
            yield

    def step(self) -> list[dict[str, Tensor]]:
        """Run every group up to the next block, and return what they passed: per group, site -> activations.

        Raises:
            NotInStepsError: the passes do not meet the same blocks.
        """
        self.acts = [{} for _ in self.groups]
        ended = set()
        for number, paused in enumerate(self._passes):
            self._current = number
            ended.add(paused.resume())
        self._release()
        if len(ended) > 1:
            raise NotInStepsError(
                f"{type(self.model).__name__} does not run the same blocks on all sequences; leave out "
                "--block-by-block (study.block_by_block=true in a study)"
            )
        (self.has_ended,) = ended
        return self.acts

    def passed(self) -> Iterator[list[dict[str, Tensor]]]:
        """Run every group up to the head, and yield what they passed, step by step."""
        while not (self.is_at_head or self.has_ended):
            yield self.step()

    def results(self) -> Iterator[Any]:
        """Run every group up to the head, and yield the model's result for one after another."""
        for _ in self.passed():
            pass
        for number in range(len(self.groups)):
            yield self.finish(number)

    def finish(self, number: int) -> Any:
        """Run one group to its end, and return the model's result; the head keeps its weights."""
        self._current = number
        while not self._passes[number].resume():
            pass
        result, self._passes[number].result = self._passes[number].result, None
        return result

    def _run(self, number: int) -> Any:
        try:
            return call(self.model, self.groups[number][1].to(device_of(self.model)))
        except NotImplementedError as error:  # torch, of a weight that is not there
            raise NotInStepsError(
                f"{type(self.model).__name__} reads weights of a block outside of it ({str(error)[:80]}); leave "
                "out --block-by-block (study.block_by_block=true in a study)"
            ) from error

    def _pause(self, module: nn.Module, args: tuple) -> None:
        self.is_at_head = module is self._head
        self._passes[self._current].pause()

    def _hook(self, site: str, point: ModulePoint) -> Any:
        module = self.model.get_submodule(point.module)

        def at_input(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self._take(site, first_argument(args, kwargs))

        def at_output(module: nn.Module, args: tuple, output: Any) -> None:
            self._take(site, first_result(output))

        if point.side == "input":
            return module.register_forward_pre_hook(at_input, with_kwargs=True)
        return module.register_forward_hook(at_output)

    def _take(self, site: str, value: Any) -> None:
        """Keep a copy of the first activation of a site in a pass."""
        if site in self._seen[self._current]:
            return
        self._seen[self._current].add(site)
        expected = tuple(self.groups[self._current][1].shape)
        if not isinstance(value, Tensor) or value.ndim != 3 or value.shape[:2] != expected or value.is_meta:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise NotInStepsError(
                f"expected activations {(*expected, 'd')} at {site}, found {shape}; leave out --block-by-block "
                "(study.block_by_block=true in a study), or choose other sites"
            )
        self.acts[self._current][site] = value.detach().clone()


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Run a model of transformers without its cache: keys and values of all blocks and sequences would pile up."""
    config: Any = getattr(model, "config", None)
    get = getattr(config, "get_text_config", None)
    parts = [] if get is None else [part for part in (config, get()) if hasattr(part, "use_cache")]
    before = [part.use_cache for part in parts]
    for part in parts:
        part.use_cache = False
    try:
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.use_cache = value


def _head_of(model: nn.Module) -> nn.Module | None:
    """Return the module that turns the last stream into logits; None without one."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    return head if isinstance(head, nn.Module) else None
