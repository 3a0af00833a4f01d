"""The LightningDataModule of labeled texts: what trainer, models and callbacks see of them."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor

from data.batches import Batches, Rows, training_batches, validation_batches
from data.examples import Example, ExampleSource, digest
from data.labels import IN_DISTRIBUTION, label_sets, renamed
from data.pairs import PairEncoder
from data.tokenizers import TokenizerSpec


class TextClassificationDataModule(pl.LightningDataModule):
    """Labeled texts or pairs of texts, in rows of n_ctx tokens padded on the right.

    Batches are (tokens Int64 (rows, n_ctx), labels Int64 (rows,)). Which rows a training batch holds follows from
    (seed, step) alone, so a resumed run goes on exactly where it stopped. With several processes each reads its rows of
    the same global batch; the trainer must be told use_distributed_sampler=False.

    Args:
        source: gives the examples (data/examples).
        tokenizer: the tokenizer of the model that is fine-tuned, or what makes one (data/tokenizers.py) from the
            training split.
        n_ctx: positions a row.
        batch_size: rows a training batch, over all processes, at least 1.
        seed: of the order of training.
        labels: label to label: renamed in every split.
        merge: label of `train` to coarser label, for splits that know only those (data/labels.py).
        val_sequences: rows of each split but `train` evaluated each time, at even distances; all if there are fewer.

    Attributes:
        truncated: number of rows that did not fit, by split; after setup().

    Raises:
        ValueError: a number out of range; from setup, data that does not suffice or labels that do not fit.
    """

    def __init__(
        self,
        *,
        source: ExampleSource,
        tokenizer: Tokenizer | TokenizerSpec,
        n_ctx: int = 64,
        batch_size: int = 32,
        seed: int = 0,
        labels: Mapping[Any, Any] | None = None,
        merge: Mapping[Any, Any] | None = None,
        val_sequences: int = 1000,
    ) -> None:
        super().__init__()
        for key, value in {"batch_size": batch_size, "val_sequences": val_sequences}.items():
            if value < 1:
                raise ValueError(f"expected data.{key} >= 1, found {value}")
        self.n_ctx = n_ctx
        self.batch_size = batch_size
        self.seed = seed
        self._source = source
        self._given_tokenizer = tokenizer
        # YAML reads a label 0 as a number.
        self._renaming = {str(label): str(other) for label, other in (labels or {}).items()}
        self._merge = {str(label): str(other) for label, other in (merge or {}).items()}
        self._val_sequences = val_sequences
        self._examples: dict[str, list[Example]] | None = None
        self.truncated: dict[str, int] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read and encode all splits, once; every process does.

        Raises:
            ValueError: see data/labels.py; no more training examples than a batch; or n_ctx too small.
        """
        if self._examples is not None:
            return
        examples = renamed(self._source.splits(), self._renaming)
        self._label_sets = label_sets(examples, self._merge)
        if len(examples["train"]) < self.batch_size:
            raise ValueError(
                f"expected at least data.batch_size={self.batch_size} examples in the split train, found "
                f"{len(examples['train'])}: type data.batch_size={len(examples['train'])}, or give more"
            )
        tokenizer = self._given_tokenizer
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = tokenizer.build(text for example in examples["train"] for text in _texts(example))
        self._encoder = PairEncoder(tokenizer)
        encoded = {split: self._encoder.encode(rows, self.n_ctx) for split, rows in examples.items()}
        self.truncated = {split: rows.truncated for split, rows in encoded.items()}
        self._tokens = {split: rows.tokens for split, rows in encoded.items()}
        self._targets = {
            split: torch.tensor([self._label_sets[split].names.index(example.label) for example in rows])
            for split, rows in examples.items()
        }
        self._examples = examples

    @property
    def examples(self) -> dict[str, list[Example]]:
        """The examples of each split, labels renamed, after setup(): `train`, `val`, then the others."""
        assert self._examples is not None, "call setup() first"
        return self._examples

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; `tokenizer.save(path)` writes tokenizer.json."""
        return self._encoder.tokenizer

    @property
    def d_vocab(self) -> int:
        """Number of token ids."""
        return self._encoder.d_vocab

    @property
    def pad(self) -> int:
        """Id of the token that rows are filled up with."""
        return self._encoder.pad

    @property
    def end_is_pad(self) -> bool:
        """Whether a row's last real token is `pad` too: then the first of the trailing run of pads is real."""
        return self._encoder.end_is_pad

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the model's classes: the labels of `train` in alphabetical order."""
        return self._label_sets["train"].names

    @property
    def ood(self) -> tuple[str, ...]:
        """Names of the splits out of distribution: all but `train` and `val`."""
        return tuple(split for split in self.examples if split not in IN_DISTRIBUTION)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The sha256 of each split's texts, labels and subcases: two models that share one read the same examples."""
        return {split: digest(rows) for split, rows in self.examples.items()}

    @property
    def fingerprint(self) -> str:
        """The sha256 of the tokenizer, all tokens and all labels."""
        state = hashlib.sha256(self.tokenizer.to_str().encode())
        for split in self.examples:
            tokens, targets = self.encoded(split)
            state.update(repr((split, tuple(tokens.shape), self._label_sets[split].names)).encode())
            state.update(tokens.numpy().tobytes() + targets.numpy().tobytes())
        return state.hexdigest()

    @property
    def tokens_per_step(self) -> int:
        """Real tokens an optimizer step on average, over all processes and accumulated batches."""
        tokens = self._tokens["train"]
        trailing = (tokens.flip(1) == self.pad).int().cumprod(1).sum()
        real = tokens.numel() - int(trailing) + (len(tokens) if self.end_is_pad else 0)
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        return round(self.batch_size * accumulated * real / len(tokens))

    def encoded(self, split: str) -> tuple[Int64[Tensor, "examples n_ctx"], Int64[Tensor, " examples"]]:
        """Return all rows of a split and their labels, numbers into `names_of(split)`.

        Raises:
            ValueError: no such split.
        """
        self._check(split)
        return self._tokens[split], self._targets[split]

    def names_of(self, split: str) -> tuple[str, ...]:
        """Return the names of the labels that `encoded` and the batches of a split have: `labels`, or merged ones.

        Raises:
            ValueError: no such split.
        """
        self._check(split)
        return self._label_sets[split].names

    def classes_of(self, split: str) -> Int64[Tensor, " classes"]:
        """Return, for each class of the model, the label that it counts as in a split.

        A prediction is right where `classes_of(split)[prediction] == label`. For all but splits of merged labels this
        is 0, 1, 2 ...

        Raises:
            ValueError: no such split.
        """
        self._check(split)
        return self._label_sets[split].of_class

    def probe(self, sequences: int, length: int, split: str = "val") -> Int64[Tensor, "sequences length"]:
        """Return the probe set: rows of `length` tokens of examples at even distances; the same for every seed.

        Where `length` is below n_ctx, pairs that do not fit are truncated to it, as they are to n_ctx.

        Raises:
            ValueError: no such split, rows longer than n_ctx, or more asked for than there are.
        """
        self._check(split)
        if length > self.n_ctx:
            raise ValueError(
                f"expected probe.length <= data.n_ctx={self.n_ctx}, found {length}: type probe.length={self.n_ctx}"
            )
        rows = self.examples[split]
        if not 1 <= sequences <= len(rows):
            raise ValueError(
                f"expected 1 to {len(rows)} probe sequences (the examples of split {split!r}), found {sequences}: "
                f"type probe.sequences={len(rows)}, or give more data"
            )
        chosen = [rows[place] for place in np.arange(sequences) * len(rows) // sequences]
        return self._encoder.encode(chosen, length).tokens

    def train_dataloader(self) -> Batches:
        """Return the batches of the whole training, starting at the trainer's step.

        Raises:
            ValueError: the trainer has no number of steps, or batch_size does not divide over its processes.
        """
        count = len(self.examples["train"])
        return training_batches(self._cut("train"), count, self.batch_size, self.seed, self.trainer)

    def val_dataloader(self) -> list[Batches]:
        """Return the batches of `val` and of each split of `ood`, in that order, the same every time.

        Several processes share them equally, so the number of rows is rounded down to a multiple of the processes.

        Raises:
            ValueError: batch_size does not divide over the processes.
        """
        return [
            validation_batches(
                self._cut(split), len(self.examples[split]), self._val_sequences, self.batch_size, self.trainer
            )
            for split in ("val", *self.ood)
        ]

    def _cut(self, split: str) -> Callable[[Rows], tuple[Int64[Tensor, "rows n_ctx"], Int64[Tensor, " rows"]]]:
        tokens, targets = self.encoded(split)

        def cut(rows: Rows) -> tuple[Int64[Tensor, "rows n_ctx"], Int64[Tensor, " rows"]]:
            # A copy: the order of training is kept read-only, which torch takes badly.
            chosen = torch.from_numpy(rows.copy())
            return tokens[chosen], targets[chosen]

        return cut

    def _check(self, split: str) -> None:
        if split not in self.examples:
            raise ValueError(f"expected a split out of {', '.join(self.examples)}, found {split!r}")


def _texts(example: Example) -> tuple[str, ...]:
    return (example.text,) if example.pair is None else (example.text, example.pair)
