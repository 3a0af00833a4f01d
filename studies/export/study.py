"""The study `export`: models in the forms of other libraries, each read back and held to the same logits."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

import settings
from studies.common.results import Results, claim

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.references import Reference

FORMS = ("huggingface", "transformer_lens", "safetensors")
URIS = {"huggingface": "hf:{0}", "transformer_lens": "tl:{0}", "safetensors": "{0}/{0.name}.safetensors"}
TOLERANCE = 1e-4


def export(cfg: DictConfig, to: str) -> Results:
    """Writes each of `cfg.models` into a folder of its own under the folder of the results.

    Args:
        cfg: the config of analyze.py.
        to: `huggingface`, `transformer_lens` or `safetensors`.

    Raises:
        ValueError: no models, an unknown form, a model that has none, or one that reads back as another function.
    """
    if to not in FORMS or not cfg.models:
        raise ValueError(
            f"expected study.to one of {', '.join(FORMS)} and models=[runs/a,...], found {to} and {list(cfg.models)}"
        )
    import pyarrow as pa
    from rich.table import Table

    from models import references
    from studies.common.inputs import short_labels

    for uri in cfg.models:
        references.resolve(uri, cfg.runs_dir)
    home = Path(cfg.results_dir) / settings.study_name(cfg)
    claim(home, cfg)
    rows, notes = [], {}
    for uri, label in zip(cfg.models, short_labels(list(cfg.models)), strict=True):
        reference = references.load(uri, cfg.runs_dir)
        folder = home / re.sub(r"[^\w.@-]+", "-", label).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        rows.append({"model": uri, "to": to, **_write(reference, to, folder)})
        notes[label] = reference.provenance
    shown = Table(title=f"exported: {to}")
    for column in ("model", "reference", "logits differ by", "read by"):
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(row["model"], row["reference"], f"{row['largest_difference']:.1e}", row["reader"])
    return Results(
        table=pa.Table.from_pylist(rows),
        summary=_summary(rows, to),
        figures={},
        provenance={"models": notes},
        shown=[shown],
        next_command=f"python analyze.py study=compare models=[{rows[0]['model']},{rows[0]['reference']}]",
    )


def _write(reference: "Reference", to: str, folder: Path) -> dict[str, Any]:
    """Writes a model, reads it back, and says what came of it."""
    from models import references
    from models.exchange.folders import write_huggingface, write_safetensors, write_transformer_lens

    net, own = _net_of(reference)
    tokenizer = reference.tokenizer
    if to == "huggingface":
        reader = write_huggingface(net, own, tokenizer, _boundary(tokenizer), folder)
    elif to == "transformer_lens":
        reader = write_transformer_lens(net, tokenizer, folder)
    else:
        reader = write_safetensors(net, own, tokenizer, folder)
    uri = URIS[to].format(folder)
    back = references.load(uri)
    difference = _difference(reference.model, back.model, own)
    if not difference <= TOLERANCE:
        raise ValueError(f"{uri} reads back as another function: its logits differ by {difference:.2e}")
    return {
        "folder": str(folder),
        "reference": uri,
        "reader": reader,
        "family": own["family"],
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "largest_difference": difference,
        "sha256": back.provenance["sha256"],
    }


def _net_of(reference: "Reference") -> "tuple[nn.Module, Mapping[str, Any]]":
    """One of our nets and what it is built from; a model of Hugging Face's is turned into one."""
    from models.exchange import from_huggingface
    from models.exchange.shape import shape_of

    if reference.labels is not None:
        raise ValueError(
            f"{reference.provenance['uri']}: a classifier, of which no other library has the head; its run folder is "
            "what loads again (models.references.load); what it was trained from can be exported"
        )
    if reference.settings is not None:
        return reference.model, reference.settings
    try:
        net = from_huggingface(reference.model).eval()
    except ValueError as error:
        raise ValueError(f"{reference.provenance['uri']}: {error}") from error
    return net, shape_of(net).settings()


def _difference(a: "nn.Module", b: "nn.Module", own: Mapping[str, Any]) -> float:
    """The largest difference of two models' logits, as a share of their standard deviation where that is above 1."""
    import torch

    length = min(64, int(own.get("n_ctx") or 64))
    tokens = torch.randint(own["d_vocab"], (4, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = _logits(a(tokens)), _logits(b(tokens))
    return float((ours - theirs).abs().max() / ours.std().clamp_min(1))


def _logits(found: Any) -> "Tensor":
    return getattr(found, "logits", found)


def _boundary(tokenizer: Any) -> int | None:
    """The token that begins documents; None where there is no telling."""
    from data.tokenizers import boundary_id

    try:
        return None if tokenizer is None else boundary_id(tokenizer)
    except ValueError:
        return None


def _summary(rows: list[dict[str, Any]], to: str) -> str:
    lines = [
        f"# Models as {to}",
        "",
        "Each was read back from its files. The difference of logits is the largest on 4 random sequences (as a share "
        f"of their standard deviation, where that is above 1), and at most {TOLERANCE:g}.",
        "",
        "| model | reference | logits differ by | read by |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(f"| {row['model']} | `{row['reference']}` | {row['largest_difference']:.1e} | {row['reader']} |")
    return "\n".join(lines) + "\n"
