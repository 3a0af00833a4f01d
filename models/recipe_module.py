"""The base of our LightningModules: the recipe's optimizer, learning rate and clipping."""

import math
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor, nn

from models.recipe import lr_factor, parameter_groups
from models.untrained import other_seed

FORMAT = 1
"""Version of the checkpoint format."""


class RecipeModule(pl.LightningModule):
    """A LightningModule that trains `net` by models/recipe.py; a task adds its loss, its metrics and its records.

    Attributes:
        net: The net to train, which is also what a reference to this run loads.
        optim: The chosen conf/optim YAML as a plain dict.
        d_model: Width that scales the learning rate of the matrices.
        head: A part of `net` that is untrained when the others are not; its learning rate is optim["lr_head"].
        prefix: What precedes, in its checkpoints, the names of the weights of the net in its settings.

    Metrics logged by `log_training`:
        train/loss: loss of the step's batch, over all processes. train/lr: learning rate of the matrices.
    """

    net: nn.Module
    optim: dict[str, Any]
    d_model: int
    head: nn.Module | None = None
    prefix: ClassVar[str] = "net."

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the net."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    @property
    def facts(self) -> dict[str, Any]:
        """What provenance.json records about the task."""
        raise NotImplementedError

    @property
    def reads(self) -> str:
        """The sizes of vocabulary and outputs as text; together with the net they decide how long a step takes."""
        raise NotImplementedError

    def outcome(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Return what summary.json records about the task, from the metrics of the last validation."""
        raise NotImplementedError

    def example(self, rows: int, n_ctx: int) -> Any:
        """Return a random batch with the shape of a real one, to time a step."""
        raise NotImplementedError

    def untrained(self) -> "RecipeModule":
        """Return the same model with other initial weights, before any training; always the same ones."""
        return type(self)(**{**self.hparams, "init_seed": other_seed(self.hparams["init_seed"])})

    def real(self, tokens: Tensor) -> Tensor | None:
        """Return which positions of a batch are text, Bool (batch, pos); None for all of them."""
        return None

    def log_training(self, loss: Tensor) -> None:
        """Log the step if Lightning writes a row for it; a call at every step would cost 1 to 2 ms each."""
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (set by a connector)
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss", loss, sync_dist=True)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """Return AdamW over groups of parameters, with a learning rate that changes at every step."""
        optim = self.optim
        max_steps = self.trainer.estimated_stepping_batches
        if math.isinf(max_steps):
            raise ValueError("the learning rate depends on the length of the training: set trainer.max_steps")
        groups = parameter_groups(
            self.net,
            d_model=self.d_model,
            lr_matrices=optim["lr_matrices"],
            base_width=optim["base_width"],
            lr_other=optim["lr_other"],
            weight_decay=optim["weight_decay"],
            head=self.head,
            lr_head=optim.get("lr_head"),
        )
        # With the loss scaling of float16, Lightning cannot clip the gradients of a fused optimizer.
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
        """Clip gradients to `trainer.gradient_clip_val`, also in bf16-mixed, where Lightning itself does not.

        Lightning assumes that any fused optimizer still has to undo the loss scaling of float16; bfloat16 has none.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the class that reads the checkpoint and the version of its format."""
        checkpoint["module"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["format"] = FORMAT
