"""The LightningModule that trains a next-token model."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from models.build import build_net
from models.recipe_module import RecipeModule


class LanguageModel(RecipeModule):
    """A LightningModule that trains `net` on next-token prediction; batches are tokens (batch, n_ctx + 1).

    Args:
        net: The chosen conf/model YAML as a plain dict: `_target_` of an nn.Module class that maps tokens (batch, pos)
            to logits (batch, pos, d_vocab), its arguments, and `family`. `d_vocab` is filled in here. `d_model`, if
            given, scales the learning rate.
        optim: The chosen conf/optim YAML as a plain dict.
        d_vocab: Size of the tokenizer's vocabulary.
        bytes_per_token: Mean over the validation split; converts nats per token into bits per byte.
        unigram_loss: Loss of the unigram baseline on the validation split, in nats per token.
        init_seed: Seed of the initial weights; the global generator of torch is not used and stays as it is.

    Logged metrics:
        train/loss: nats per token of the step's batch, over all processes.
        train/lr: learning rate of the matrices.
        val/loss: nats per token. val/bits_per_byte: val/loss / ln 2 / bytes_per_token. val/perplexity: exp(val/loss).
        val/accuracy: share of tokens that the model considers most likely.

    Raises:
        ValueError: If `net` or `optim` is not a plain dict, or names something that is not an nn.Module class.
    """

    def __init__(
        self,
        net: dict[str, Any],
        optim: dict[str, Any],
        d_vocab: int,
        bytes_per_token: float,
        unigram_loss: float,
        init_seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # loggers get the config
        self.optim = optim
        self.bytes_per_token = bytes_per_token
        self.net = build_net(net, d_vocab, init_seed)
        self.d_model = net.get("d_model", optim["base_width"])
        self.val_loss = MeanMetric()
        self.val_accuracy = MulticlassAccuracy(d_vocab, average="micro", validate_args=False)

    @classmethod
    def on(cls, data: Any, net: dict[str, Any], optim: dict[str, Any], init_seed: int) -> "LanguageModel":
        """Build the module of a run on `data`, a TextDataModule."""
        d_vocab = net.get("d_vocab", data.d_vocab)
        settings = {key: value for key, value in net.items() if key != "d_vocab"}
        return cls(settings, optim, d_vocab, data.bytes_per_token, data.unigram_loss, init_seed)

    @property
    def facts(self) -> dict[str, Any]:
        """What provenance.json records about the task."""
        return {"bytes_per_token": self.bytes_per_token, "unigram_loss": self.hparams["unigram_loss"]}

    @property
    def reads(self) -> str:
        """The size of its vocabulary."""
        return str(self.hparams["d_vocab"])

    def outcome(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Return what summary.json records about the task, from the metrics of the last validation."""
        unigram = self.hparams["unigram_loss"]
        return {
            "val_loss": metrics.get("val/loss"),
            "bits_per_byte": metrics.get("val/bits_per_byte"),
            "perplexity": metrics.get("val/perplexity"),
            "accuracy": metrics.get("val/accuracy"),
            "unigram_loss": unigram,
            "unigram_bits_per_byte": unigram / (math.log(2) * self.bytes_per_token),
        }

    def example(self, rows: int, n_ctx: int) -> Tensor:
        """Return a random batch with the shape of a real one, to time a step."""
        return torch.randint(self.hparams["d_vocab"], (rows, n_ctx + 1), generator=torch.Generator().manual_seed(0))

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return next-token logits at every position."""
        return self.net(tokens)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of one batch in nats per token."""
        loss = cross_entropy(self.net(batch[:, :-1]), batch[:, 1:])
        self.log_training(loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Add one batch to the validation metrics."""
        targets = batch[:, 1:]
        logits = self.net(batch[:, :-1])
        self.val_loss.update(cross_entropy(logits, targets), weight=targets.numel())
        self.val_accuracy.update(logits.argmax(-1), targets)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over the whole split."""
        loss = self.val_loss.compute()
        self.log("val/loss", loss)
        self.log("val/bits_per_byte", loss / (math.log(2) * self.bytes_per_token))
        self.log("val/perplexity", loss.exp())
        self.log("val/accuracy", self.val_accuracy.compute())
        self.val_loss.reset()
        self.val_accuracy.reset()


def cross_entropy(logits: Float[Tensor, "batch pos d_vocab"], targets: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Return the mean over tokens in nats, computed in float32 for logits of any precision.

    Examples:
        >>> round(cross_entropy(torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.long)).item(), 4)
        0.6931
    """
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
