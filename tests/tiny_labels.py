"""Labelled texts that a tiny classifier learns in seconds, and an encoder's or decoder's start for it."""

import json
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer
from torch import Tensor

from data.blocks import blocks_of_step
from data.tokenizers import TokenizerSpec

LABELS = ("a", "b")


class StandIn(pl.LightningDataModule):
    """Stand-in for the data module of labelled texts until it is there."""

    labels, ood, end_is_pad, truncated = LABELS, ("other.a",), True, {}

    def __init__(
        self, *, source: "Letters", tokenizer: TokenizerSpec, n_ctx: int = 12, batch_size: int = 4, seed: int = 0
    ) -> None:
        super().__init__()
        self.source, self.spec, self.n_ctx, self.batch_size, self.seed = source, tokenizer, n_ctx, batch_size, seed

    def setup(self, stage: str | None = None) -> None:
        texts = [text for text, _ in self.source.rows(200, 0)]
        self.tokenizer: Tokenizer = self.spec.build(texts)
        self.d_vocab = self.tokenizer.get_vocab_size()
        self.pad = self.tokenizer.token_to_id("<|endoftext|>")
        self.fingerprint = "stand-in"
        self._rows = {"train": self.encoded(200, 0), "val": self.encoded(40, 1), "other.a": self.encoded(20, 2)}

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.n_ctx

    def encoded(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        tokens = torch.full((count, self.n_ctx), self.pad)
        labels = torch.zeros(count, dtype=torch.int64)
        for row, (text, label) in enumerate(self.source.rows(count, seed)):
            ids = self.tokenizer.encode(text).ids[: self.n_ctx - 1]
            tokens[row, : len(ids)] = torch.tensor(ids)
            labels[row] = LABELS.index(label)
        return tokens, labels

    def probe(self, sequences: int, length: int, split: str = "val") -> Tensor:
        return self._rows[split][0][:sequences, :length]

    def train_dataloader(self) -> "Steps":
        start = self.trainer.global_step if self.trainer else 0
        return Steps(self._rows["train"], self.seed, self.batch_size, start, self.trainer.max_steps)

    def val_dataloader(self) -> list:
        return [[self._rows[split]] for split in ("val", "other.a")]


class Steps:
    """The batches of steps start ... stop - 1."""

    def __init__(self, rows: tuple[Tensor, Tensor], seed: int, size: int, start: int, stop: int) -> None:
        self.rows, self.seed, self.size, self.start, self.stop = rows, seed, size, start, stop

    def __len__(self) -> int:
        return self.stop

    def __iter__(self):
        for step in range(self.start, self.stop):
            chosen = torch.from_numpy(np.array(blocks_of_step(self.seed, step, self.size, len(self.rows[0]))))
            yield self.rows[0][chosen], self.rows[1][chosen]

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class Letters:
    """Texts of two to five letters, labelled by their last."""

    def rows(self, count: int, seed: int) -> list[tuple[str, str]]:
        chance = np.random.default_rng(seed)
        words = ["".join(chance.choice(list("abxyz"), chance.integers(1, 5))) for _ in range(count)]
        return [(word + label, label) for word, label in zip(words, chance.choice(LABELS, count), strict=True)]
