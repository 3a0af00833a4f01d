"""What every LightningModule of ours trains by: the recipe's optimizer, learning rate and clipping."""

import math
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor, nn

from models.recipe import lr_factor, parameter_groups

FORMAT = 1
"""Version of the checkpoint format."""


class RecipeModule(pl.LightningModule):
    """Trains `net` by models/recipe.py; a task adds its loss and its metrics, and says what a run tells of it.

    Attributes:
        net: what is trained, and what a reference to this run is.
        optim: the chosen conf/optim YAML as a plain dict.
        d_model: scales the learning rate of the matrices.
        head: a part of `net` that starts from nothing where the rest does not; it learns at optim["lr_head"].
        prefix: of the names, in its checkpoints, of the weights of what its settings `net` describe.

    Logged, by `log_training`:
        train/loss: of the step's batch, over all processes. train/lr: learning rate of the matrices.
    """

    net: nn.Module
    optim: dict[str, Any]
    d_model: int
    head: nn.Module | None = None
    prefix: ClassVar[str] = "net."

    @property
    def facts(self) -> dict[str, Any]:
        """What provenance.json says of the task."""
        raise NotImplementedError

    @property
    def reads(self) -> str:
        """What the tokens of a batch are of, and what is to be said of them: it decides how long a step takes."""
        raise NotImplementedError

    def outcome(self, metrics: dict[str, float]) -> dict[str, Any]:
        """What summary.json says of the task, of the metrics of the last validation."""
        raise NotImplementedError

    def example(self, rows: int, n_ctx: int) -> Any:
        """A batch of random numbers of the shape of a real one, to time a step with."""
        raise NotImplementedError

    def real(self, tokens: Tensor) -> Tensor | None:
        """Which positions of a batch are text, Bool (batch, pos); None: all of them."""
        return None

    def log_training(self, loss: Tensor) -> None:
        """Logs a step, where Lightning writes a row: a call on every step would cost 1 to 2 ms each time."""
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (set by a connector)
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss", loss, sync_dist=True)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """AdamW over groups of parameters, and a learning rate set anew before each update."""
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
            head=self.head,
            lr_head=optim.get("lr_head"),
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
        """Marks the checkpoint with the class that reads it and the format it is written in."""
        checkpoint["module"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["format"] = FORMAT
