"""The LightningDataModule of labeled texts."""

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
from data.examples import Example, ExampleSource, digest, label_name
from data.labels import IN_DISTRIBUTION, label_sets, renamed
from data.pairs import PairEncoder
from data.tokenizers import TokenizerSpec


class TextClassificationDataModule(pl.LightningDataModule):
    """Labeled texts or pairs of texts, in rows of n_ctx tokens padded on the right.

    Batches are (tokens Int64 (rows, n_ctx), labels Int64 (rows,)). The rows of a training batch depend on (seed, step)
    alone, so a resumed run continues exactly where it stopped. Each of several processes reads its share of the same
    global batch; the trainer needs use_distributed_sampler=False.

    Args:
        source: The source of examples (data/examples).
        tokenizer: The tokenizer of the model to fine-tune, or the specification of one that is made from the training
            split (data/tokenizers.py).
        n_ctx: Positions per row.
        batch_size: Rows per training batch, over all processes, at least 1.
        seed: Seed of the order of training.
        labels: New names of labels, in every split.
        merge: Coarser labels by label of `train`, for splits that have only those (data/labels.py).
        val_sequences: Evenly spaced rows per validation, of each split but `train`; all if there are fewer.

    Attributes:
        truncated: Number of truncated rows by split; after setup().

    Raises:
        ValueError: If a number is out of range; from setup, if data is insufficient or labels do not match.
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
        self._renaming = {label_name(label): label_name(other) for label, other in (labels or {}).items()}
        self._merge = {label_name(label): label_name(other) for label, other in (merge or {}).items()}
        self._val_sequences = val_sequences
        self._examples: dict[str, list[Example]] | None = None
        self.truncated: dict[str, int] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read and encode all splits once, in every process.

        Raises:
            ValueError: See data/labels.py; or if there are fewer training examples than a batch, or n_ctx is too small.
        """
        if self._examples is not None:
            return
        examples = renamed(self._source.splits(), self._renaming)
        self._label_sets = label_sets(examples, self._merge)
        if len(examples["train"]) < self.batch_size:
            raise ValueError(
                f"expected at least data.batch_size={self.batch_size} examples in the split train, found "
                f"{len(examples['train'])}: type data.batch_size={len(examples['train'])}, or give more data"
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
        """The examples of each split with renamed labels, after setup(): `train`, `val`, then the others."""
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
        """Id of the token that rows are padded with."""
        return self._encoder.pad

    @property
    def end_is_pad(self) -> bool:
        """Whether the last real token of a row is `pad` too, so that the first of its trailing pads is real."""
        return self._encoder.end_is_pad

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes of the model: the labels of `train` in alphabetical order."""
        return self._label_sets["train"].names

    @property
    def ood(self) -> tuple[str, ...]:
        """Names of the splits out of distribution: all but `train` and `val`."""
        return tuple(split for split in self.examples if split not in IN_DISTRIBUTION)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The sha256 of texts, labels and subcases by split; models with equal hashes read the same examples."""
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
        """Real tokens per optimizer step on average, over all processes and accumulated batches."""
        tokens = self._tokens["train"]
        trailing = (tokens.flip(1) == self.pad).int().cumprod(1).sum()
        real = tokens.numel() - int(trailing) + (len(tokens) if self.end_is_pad else 0)
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        return round(self.batch_size * accumulated * real / len(tokens))

    def encoded(self, split: str) -> tuple[Int64[Tensor, "examples n_ctx"], Int64[Tensor, " examples"]]:
        """Return all rows of a split and their labels as indices into `names_of(split)`.

        Raises:
            ValueError: If there is no such split.
        """
        self._check(split)
        return self._tokens[split], self._targets[split]

    def names_of(self, split: str) -> tuple[str, ...]:
        """Return the names of the labels of a split: `labels`, or merged ones.

        Raises:
            ValueError: If there is no such split.
        """
        self._check(split)
        return self._label_sets[split].names

    def classes_of(self, split: str) -> Int64[Tensor, " classes"]:
        """Return, per class of the model, the label that it counts as in a split.

        A prediction is right if `classes_of(split)[prediction] == label`. Except for splits with merged labels, this is
        0, 1, 2, ...

        Raises:
            ValueError: If there is no such split.
        """
        self._check(split)
        return self._label_sets[split].label_of_class

    def probe(self, sequences: int, length: int, split: str = "val") -> Int64[Tensor, "sequences length"]:
        """Return the probe set: rows of `length` tokens of evenly spaced examples; the same for every seed.

        Pairs that are longer than `length` are truncated to it.

        Raises:
            ValueError: If there is no such split, rows are longer than n_ctx, or there are too few examples.
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
        examples = [rows[index] for index in np.arange(sequences) * len(rows) // sequences]
        return self._encoder.encode(examples, length).tokens

    def train_dataloader(self) -> Batches:
        """Return the batches of the whole training, starting at the trainer's step.

        Raises:
            ValueError: If the trainer has no number of steps, or batch_size cannot be divided among its processes.
        """
        count = len(self.examples["train"])
        return training_batches(self._cut("train"), count, self.batch_size, self.seed, self.trainer)

    def val_dataloader(self) -> list[Batches]:
        """Return the batches of `val` and of each split of `ood`, in that order and always the same.

        Several processes share them equally, so the number of rows is rounded down to a multiple of the processes.

        Raises:
            ValueError: If batch_size cannot be divided among the processes.
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
            # A copy, because the order of training is read-only, which torch warns about.
            indices = torch.from_numpy(rows.copy())
            return tokens[indices], targets[indices]

        return cut

    def _check(self, split: str) -> None:
        if split not in self.examples:
            raise ValueError(f"expected a split out of {', '.join(self.examples)}, found {split!r}")


def _texts(example: Example) -> tuple[str, ...]:
    return (example.text,) if example.pair is None else (example.text, example.pair)
