"""The LightningModule that trains a next-token model."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from models.build import build_net
from models.recipe import lr_factor, parameter_groups

# Raised when checkpoints change in a way that older code would misread.
FORMAT = 1


class LanguageModel(pl.LightningModule):
    """Trains `net` on next-token prediction; batches are tokens (batch, n_ctx + 1).

    Args:
        net: the chosen conf/model YAML as a plain dict: `_target_` of an nn.Module class that maps tokens (batch, pos)
            to logits (batch, pos, d_vocab), its arguments, and `family`. `d_vocab` is filled in here. `d_model`, where
            there is one, scales the learning rate.
        optim: the chosen conf/optim YAML as a plain dict.
        d_vocab: size of the tokenizer's vocabulary.
        bytes_per_token: of the validation split; turns nats per token into bits per byte.
        unigram_loss: nats per token of the unigram baseline on the validation split; kept in the checkpoint.
        init_seed: the starting weights depend on this alone, not on torch's global generator, which is left as it was.

    Logged:
        train/loss: nats per token of the step's batch, over all processes.
        train/lr: learning rate of the matrices.
        val/loss: nats per token. val/bits_per_byte: the same over ln 2 and bytes_per_token. val/perplexity: exp of it.
        val/accuracy: share of tokens that were the likeliest.

    Raises:
        ValueError: `net` or `optim` is not a plain dict, or names something that is not an nn.Module class.
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
        self.save_hyperparameters()
        self.optim = optim
        self.bytes_per_token = bytes_per_token
        self.net = build_net(net, d_vocab, init_seed)
        self.d_model = net.get("d_model", optim["base_width"])
        self.val_loss = MeanMetric()
        self.val_accuracy = MulticlassAccuracy(d_vocab, average="micro", validate_args=False)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the next token at every position."""
        return self.net(tokens)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean cross-entropy of one batch, nats per token."""
        loss = cross_entropy(self.net(batch[:, :-1]), batch[:, 1:])
        # Lightning writes rows on these steps alone, but a call on every step would cost 1 to 2 ms each time.
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (set by a connector)
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss", loss, sync_dist=True)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Adds one batch to the validation metrics."""
        targets = batch[:, 1:]
        logits = self.net(batch[:, :-1])
        self.val_loss.update(cross_entropy(logits, targets), weight=targets.numel())
        self.val_accuracy.update(logits.argmax(-1), targets)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics over the whole split."""
        loss = self.val_loss.compute()
        self.log("val/loss", loss)
        self.log("val/bits_per_byte", loss / (math.log(2) * self.bytes_per_token))
        self.log("val/perplexity", loss.exp())
        self.log("val/accuracy", self.val_accuracy.compute())
        self.val_loss.reset()
        self.val_accuracy.reset()

    def configure_optimizers(self) -> Any:
        """AdamW over two groups, and a learning rate set anew before each update."""
        optim = self.optim
        max_steps = self.trainer.estimated_stepping_batches
        if math.isinf(max_steps):
            raise ValueError("the learning rate needs to know where training ends: set trainer.max_steps")
        groups = parameter_groups(
            self.net,
            d_model=self.d_model,
            lr_matrices=optim["lr_matrices"],
            base_width=optim["base_width"],
            lr_other=optim["lr_other"],
            weight_decay=optim["weight_decay"],
        )
        # Under float16's loss scaling Lightning cannot clip the gradients of a fused optimizer.
        fused = self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(groups, betas=tuple(optim["betas"]), eps=optim["eps"], fused=fused)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, int(max_steps), optim["warmup"], optim["final_lr"])
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as `trainer.gradient_clip_val` says, in bf16-mixed too, where Lightning itself refuses.

        It takes any fused optimizer for one that has yet to undo float16's loss scaling; bfloat16 has no such scaling.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the checkpoint with the format it is written in."""
        checkpoint["format"] = FORMAT


def cross_entropy(logits: Float[Tensor, "batch pos d_vocab"], targets: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Mean over tokens, nats, in float32 whatever the logits are."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
