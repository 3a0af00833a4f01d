"""The LightningDataModule of packed text."""

from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor

from data.batches import Batches, Rows, training_batches, validation_batches
from data.blocks import count_blocks
from data.pack import SPLITS, Packed, pack
from data.probe import draw_probe
from data.sources import Source
from data.tokenizers import TokenizerSpec


class TextDataModule(pl.LightningDataModule):
    """Packed text in blocks of n_ctx + 1 tokens.

    Batches are Int64 (rows, n_ctx + 1): inputs are `batch[:, :-1]`, targets `batch[:, 1:]`. The blocks of a training
    batch depend on (seed, step) alone, so a resumed run continues exactly where it stopped. Each of several processes
    reads its share of the same global batch; the trainer needs use_distributed_sampler=False.

    Args:
        source: The source of documents (data/sources).
        tokenizer: The specification of the tokenizer (data/tokenizers.py).
        n_ctx: Positions per sequence, at least 1.
        batch_size: Sequences per training batch, over all processes.
        seed: Seed of the order of training.
        cache_dir: Folder of packed data; the hash of its ingredients names the folder inside.
        val_fraction: Share of documents for validation, between 0 and 1; None = text that is not trained on, all of it
            in the split `train`.
        val_sequences: Evenly spaced blocks of text per validation; all of them if there are fewer.

    Raises:
        ValueError: If a number is out of range; from prepare_data and setup, if data is insufficient.
    """

    def __init__(
        self,
        *,
        source: Source,
        tokenizer: TokenizerSpec,
        n_ctx: int = 128,
        batch_size: int = 8,
        seed: int = 0,
        cache_dir: str = "cache",
        val_fraction: float | None = 0.05,
        val_sequences: int = 64,
    ) -> None:
        super().__init__()
        for key, value in {"n_ctx": n_ctx, "batch_size": batch_size, "val_sequences": val_sequences}.items():
            if value < 1:
                raise ValueError(f"expected data.{key} >= 1, found {value}")
        self.n_ctx = n_ctx
        self.batch_size = batch_size
        self.seed = seed
        self._source = source
        self._tokenizer_spec = tokenizer
        self._cache_dir = cache_dir
        self._val_fraction = val_fraction
        self._val_sequences = val_sequences
        self._opened: Packed | None = None

    def prepare_data(self) -> None:
        """Tokenize and pack the text, unless it is in the cache."""
        self._pack()

    def setup(self, stage: str | None = None) -> None:
        """Open the packed data, in every process.

        Raises:
            ValueError: If the training split is smaller than one batch, or the validation split than one block.
        """
        self._opened = self._pack()
        needs = {} if self._val_fraction is None else {"train": self.batch_size, "val": 1}
        for split, needed in needs.items():
            count = self._count(split)
            if count < needed:
                n_tokens = len(self._opened.tokens[split])
                raise ValueError(
                    f"expected at least {needed} blocks of data.n_ctx={self.n_ctx} tokens in the {split} split, found "
                    f"{count} ({n_tokens} tokens): type data.n_ctx={max(1, (n_tokens - 1) // needed)} or less, lower "
                    f"data.batch_size, change data.val_fraction={self._val_fraction}, or give more text"
                )

    def _pack(self) -> Packed:
        return pack(self._source, self._tokenizer_spec, self._cache_dir, self._val_fraction)

    @property
    def packed(self) -> Packed:
        """The packed corpus, after setup()."""
        assert self._opened is not None, "call prepare_data() and setup() first"
        return self._opened

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; `tokenizer.save(path)` writes tokenizer.json."""
        return self.packed.tokenizer

    @property
    def d_vocab(self) -> int:
        """Number of token ids."""
        return self.packed.meta["d_vocab"]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token of the validation split, including the tokens between documents.

        Loss in nats per token / ln 2 / bytes_per_token is bits per byte, which is comparable across tokenizers.
        """
        return self.packed.meta["bytes_per_token"]

    @property
    def unigram_loss(self) -> float:
        """Loss on the validation split of the smoothed token frequencies of the training split, in nats per token."""
        return self.packed.meta["unigram_loss"]

    @property
    def fingerprint(self) -> str:
        """The sha256 of the tokenizer and all packed tokens."""
        return self.packed.meta["fingerprint"]

    @property
    def tokens_per_step(self) -> int:
        """Targets per optimizer step, over all processes and accumulated batches."""
        return self.batch_size * self.n_ctx * self._accumulated

    @property
    def _accumulated(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def probe(self, sequences: int, length: int, split: str = "val") -> Int64[Tensor, "sequences length"]:
        """Return the probe set, which depends on the packed data alone and not on the seed.

        Raises:
            ValueError: If there is no such split, sequences are longer than n_ctx, or there is too little text.
        """
        if split not in SPLITS:
            raise ValueError(f"expected probe.split to be one of {', '.join(SPLITS)}, found {split!r}")
        if length > self.n_ctx:
            raise ValueError(
                f"expected probe.length <= data.n_ctx={self.n_ctx}, found {length}: type probe.length={self.n_ctx}"
            )
        return draw_probe(self.packed.tokens[split], sequences, length, split)

    def train_dataloader(self) -> Batches:
        """Return the batches of the whole training, starting at the trainer's step.

        Raises:
            ValueError: If the trainer has no number of steps, or batch_size cannot be divided among its processes.
        """
        return training_batches(self._cut("train"), self._count("train"), self.batch_size, self.seed, self.trainer)

    def val_dataloader(self) -> Batches:
        """Return the validation batches, always the same: evenly spaced blocks in the order of the text.

        Several processes share them equally, so their number is rounded down to a multiple of the processes.

        Raises:
            ValueError: If batch_size cannot be divided among the processes.
        """
        blocks, count = self._count("val"), self._val_sequences
        return validation_batches(self._cut("val"), blocks, count, self.batch_size, self.trainer)

    def _cut(self, split: str) -> Callable[[Rows], Int64[Tensor, "rows n_ctx_plus_1"]]:
        tokens, offsets = self.packed.tokens[split], np.arange(self.n_ctx + 1)

        def cut(blocks: Rows) -> Int64[Tensor, "rows n_ctx_plus_1"]:
            return torch.from_numpy(tokens[(blocks * self.n_ctx)[:, None] + offsets].astype(np.int64))

        return cut

    def _count(self, split: str) -> int:
        return count_blocks(len(self.packed.tokens[split]), self.n_ctx)
