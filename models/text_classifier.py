"""The LightningModule that trains a classifier of texts."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from models.build import build_net
from models.classifier import Classifier
from models.recipe_module import RecipeModule


class TextClassifier(RecipeModule):
    """A LightningModule that trains a `Classifier`; batches are (tokens (rows, n_ctx) right-padded, labels (rows,)).

    Args:
        net: Settings of the body, as for `LanguageModel`.
        optim: The chosen conf/optim YAML as a plain dict.
        d_vocab: Size of the body's vocabulary.
        labels: Names of the labels, in the order of their numbers.
        ood: Names of the splits out of distribution, in the order of the validation loaders after the first.
        classes: By split, the class of each label. A split may have coarser classes than the labels (HANS: entailment
            or not), and its examples are then numbered by those.
        pooling: As for `Classifier`.
        pad: As for `Classifier`.
        end_is_pad: As for `Classifier`.
        init_seed: Seed of the head, and of the body unless weights are loaded into it.

    Logged metrics:
        train/loss, val/loss: nats per example.
        val/accuracy, ood/SPLIT/accuracy: share of examples whose class is that of the most likely label.

    Raises:
        ValueError: As `build_net` and `Classifier`, or if there are fewer than two labels.
    """

    net: Classifier
    prefix: ClassVar[str] = "net.net."

    def __init__(
        self,
        net: dict[str, Any],
        optim: dict[str, Any],
        d_vocab: int,
        labels: Sequence[str],
        ood: Sequence[str],
        classes: Mapping[str, Sequence[int]],
        pooling: str,
        pad: int,
        end_is_pad: bool,
        init_seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # loggers get the config
        if len(labels) < 2:
            raise ValueError(f"expected two labels or more, found {list(labels)}; choose other data")
        self.optim = optim
        body = build_net(net, d_vocab, init_seed)
        self.net = Classifier(body, len(labels), pooling, pad, end_is_pad, head_seed=init_seed)
        self.d_model = net.get("d_model", optim["base_width"])
        self.val_loss = MeanMetric()
        self.accuracies = nn.ModuleList(
            MulticlassAccuracy(max(classes[split]) + 1, average="micro", validate_args=False) for split in ("val", *ood)
        )

    @classmethod
    def on(
        cls, data: Any, net: dict[str, Any], optim: dict[str, Any], init_seed: int, pooling: str
    ) -> "TextClassifier":
        """Build the module of a run on `data`, a TextClassificationDataModule."""
        if not hasattr(data, "labels"):
            raise ValueError(
                "task=classify: this data has no labels; type data=heuristics, or data=pairs_file for your own"
            )
        return cls(
            net={key: value for key, value in net.items() if key != "d_vocab"},
            optim=optim,
            d_vocab=net.get("d_vocab", data.d_vocab),
            labels=list(data.labels),
            ood=list(data.ood),
            classes={split: data.classes_of(split).tolist() for split in ("val", *data.ood)},
            pooling=pooling,
            pad=data.pad,
            end_is_pad=data.end_is_pad,
            init_seed=init_seed,
        )

    @property
    def head(self) -> nn.Module:
        """The part that is untrained in any initial model."""
        return self.net.head

    @property
    def facts(self) -> dict[str, Any]:
        """What provenance.json records about the task."""
        return {key: self.hparams[key] for key in ("labels", "ood", "classes", "pooling", "pad", "end_is_pad")}

    @property
    def splits(self) -> list[str]:
        """The splits for validation, in distribution first."""
        return ["val", *self.hparams["ood"]]

    @property
    def reads(self) -> str:
        """The sizes of its vocabulary and label set."""
        return f"{self.hparams['d_vocab']}, {len(self.hparams['labels'])} labels"

    def outcome(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Return what summary.json records about the task, from the metrics of the last validation."""
        splits = {split: metrics.get(f"{_prefix(split)}/accuracy") for split in self.splits}
        ood: list[Any] = [splits[split] for split in self.hparams["ood"]]
        return {
            "val_loss": metrics.get("val/loss"),
            "val_accuracy": metrics.get("val/accuracy"),
            "ood_accuracy": sum(ood) / len(ood) if ood and None not in ood else None,
            "splits": splits,
            "labels": self.hparams["labels"],
        }

    def example(self, rows: int, n_ctx: int) -> tuple[Tensor, Tensor]:
        """Return a random batch with the shape of a real one, to time a step."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.hparams["d_vocab"], (rows, n_ctx), generator=generator)
        return tokens, torch.randint(len(self.hparams["labels"]), (rows,), generator=generator)

    def real(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Return which positions are text."""
        return self.net.real(tokens)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch n_labels"]:
        """Return the logits of the labels."""
        return self.net(tokens)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of one batch in nats per example."""
        tokens, labels = batch
        loss = F.cross_entropy(self.net(self._cut(tokens)).float(), labels)
        self.log_training(loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add one batch of one split to its metrics."""
        tokens, labels = batch
        logits = self.net(self._cut(tokens)).float()
        if dataloader_idx == 0:
            self.val_loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        classes = labels.new_tensor(self.hparams["classes"][self.splits[dataloader_idx]])
        self.accuracies[dataloader_idx].update(classes[logits.argmax(-1)], labels)  # pyright: ignore[reportCallIssue]

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics of every split."""
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()
        for split, accuracy in zip(self.splits, self.accuracies, strict=True):
            assert isinstance(accuracy, MulticlassAccuracy)
            self.log(f"{_prefix(split)}/accuracy", accuracy.compute())
            accuracy.reset()

    def _cut(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch less"]:
        """Return the batch without columns that are padding in every row, which cost time and change nothing."""
        return tokens[:, : max(1, int(self.real(tokens).sum(1).max()))]


def _prefix(split: str) -> str:
    return split if split == "val" else f"ood/{split}"
