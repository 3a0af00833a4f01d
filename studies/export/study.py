"""The study `export`: write models in the formats of other libraries and check that each reads back the same."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from omegaconf import DictConfig
from rich.markup import escape
from torch import Tensor, nn

import settings
from data.tokenizers import boundary_id
from dissimilarity.cli.fitted_table import FittedTable
from models import references
from models.exchange import from_huggingface
from models.exchange.folders import write_huggingface, write_safetensors, write_transformer_lens
from models.exchange.shape import shape_of
from models.references import Reference
from studies.common.inputs import short_labels
from studies.common.next_command import models_override
from studies.common.results import Results, claim
from studies.export.text import summary

URIS = {"huggingface": "hf:{0}", "transformer_lens": "tl:{0}", "safetensors": "{0}/{0.name}.safetensors"}
TOLERANCE = 1e-4
SEQUENCES, LONGEST = 4, 64
"""Random sequences on which logits are compared, and their maximum length."""


def export(cfg: DictConfig, to: str) -> Results:
    """Write each of `cfg.models` into a folder of its own in the folder of the results.

    Args:
        cfg: config of analyze.py.
        to: `huggingface`, `transformer_lens` or `safetensors`.

    Raises:
        ValueError: No models, a model that the format cannot hold, or one whose logits differ after reading it back.
    """
    if not cfg.models:
        raise ValueError("models=[]: expected models to export, such as models=[runs/a]")
    for uri in cfg.models:
        references.resolve(uri, cfg.runs_dir)
    home = Path(cfg.results_dir) / settings.study_name(cfg)
    claim(home, cfg)
    records, notes = [], {}
    for uri, label in zip(cfg.models, short_labels(list(cfg.models)), strict=True):
        reference = references.load(uri, cfg.runs_dir)
        folder = home / re.sub(r"[^\w.@-]+", "-", label).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        records.append({"model": uri, "to": to, **_write(reference, to, folder)})
        notes[label] = reference.provenance
    shown = FittedTable(f"exported: {to}", drop=["read by"])
    for column in ("model", "reference", "logits differ by", "read by"):
        shown.add_column(column)
    for record in records:
        difference = f"{record['largest_difference']:.1e}"
        shown.add_row(escape(record["model"]), escape(record["reference"]), difference, record["reader"])
    compared = models_override([records[0]["model"], records[0]["reference"]])
    return Results(
        table=pa.Table.from_pylist(records),
        summary=summary(records, to, SEQUENCES, TOLERANCE),
        figures={},
        provenance={"models": notes},
        shown=[shown],
        next_command=f"python analyze.py study=compare {compared}",
    )


def _write(reference: Reference, to: str, folder: Path) -> dict[str, Any]:
    """Write a model, read it back, and return its record."""
    net, shape = _net_of(reference)
    tokenizer = reference.tokenizer
    if to == "huggingface":
        reader = write_huggingface(net, shape, tokenizer, _boundary(tokenizer), folder)
    elif to == "transformer_lens":
        reader = write_transformer_lens(net, tokenizer, folder)
    else:
        reader = write_safetensors(net, shape, tokenizer, folder)
    uri = URIS[to].format(folder)
    read_back = references.load(uri)
    difference = _difference(reference.model, read_back.model, shape)
    if not difference <= TOLERANCE:
        raise ValueError(f"{uri}: the logits differ by {difference:.2e} after reading it back, expected {TOLERANCE:g}")
    return {
        "folder": str(folder),
        "reference": uri,
        "reader": reader,
        "family": shape["family"],
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "largest_difference": difference,
        "sha256": read_back.provenance["sha256"],
    }


def _net_of(reference: Reference) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return a net of ours, converted from Hugging Face's if necessary, and the settings that it is built from."""
    if reference.labels is not None:
        raise ValueError(
            f"{reference.provenance['uri']}: a classifier, whose head other libraries do not have; load it from its "
            "run folder (models.references.load), or export the model that it was fine-tuned from"
        )
    if reference.settings is not None:
        return reference.model, reference.settings
    try:
        net = from_huggingface(reference.model).eval()
    except ValueError as error:
        raise ValueError(f"{reference.provenance['uri']}: {error}") from error
    return net, shape_of(net).settings()


def _difference(a: nn.Module, b: nn.Module, shape: Mapping[str, Any]) -> float:
    """Return the largest difference between logits, divided by their standard deviation if that is above 1."""
    length = min(LONGEST, int(shape.get("n_ctx") or LONGEST))
    tokens = torch.randint(shape["d_vocab"], (SEQUENCES, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = _logits(a(tokens)), _logits(b(tokens))
    return float((first - second).abs().max() / first.std().clamp_min(1))


def _logits(output: Any) -> Tensor:
    return getattr(output, "logits", output)


def _boundary(tokenizer: Any) -> int | None:
    """Return the token that begins documents; None if the tokenizer does not say."""
    try:
        return None if tokenizer is None else boundary_id(tokenizer)
    except ValueError:
        return None
