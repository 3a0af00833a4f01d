"""The references of a run: resolved before it trains, and the same checkpoints whenever it continues."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tokenizers import Tokenizer
from torch import Tensor, nn

from dissimilarity.loading.untrusted import shown
from dissimilarity.probe.alignment import Alignment
from dissimilarity.tables.names import UNTRAINED
from dissimilarity.tracking.references import OWN
from dissimilarity.tracking.schedule import PINNED
from launch.run.alignment import ProbeText, alignment_summary
from launch.run.folder import is_over, read_json, write_json
from launch.run.form import LINE, MODEL, check_form
from launch.run.ranks import is_first
from models import references

UNFINISHED = "unfinished"


@dataclass(frozen=True)
class RunReferences:
    """The references of a run.

    Attributes:
        load: Loads the module of a URI.
        alignments: How the run is aligned with each reference that uses a different tokenizer, by URI.
    """

    load: Callable[[str], nn.Module]
    alignments: dict[str, Alignment]


def compares(cfg: DictConfig) -> bool:
    """Return whether a callback of the run uses its references."""
    return any("references" in node for node in (cfg.callbacks or {}).values())


def find(cfg: DictConfig, folder: Path, tokenizer: Tokenizer, probe: Tensor) -> RunReferences:
    """Resolve each of `cfg.references`, and pin it in provenance.json.

    `runs/NAME` changes while that run trains. A continuation of this run therefore compares with the checkpoint that
    its first start found, and rejects a different one under the same path.

    Args:
        cfg: The config.
        folder: The folder of the run.
        tokenizer: The tokenizer of the run.
        probe: The probe set of the run. References with a different tokenizer are given its text in their own tokens.

    Raises:
        ValueError: If a reference is missing, damaged, changed since the first start, or cannot be aligned.
    """
    path = folder / "provenance.json"
    notes = read_json(path)
    earlier = notes.get("references", {})
    pinned: dict[str, dict[str, Any]] = {}
    alignments, text = {}, None
    for uri in cfg.references:
        if uri in (*OWN, UNTRAINED):
            continue
        before = earlier.get(uri)
        if before is not None:
            check_form(before, {**MODEL, "pinned": LINE}, path, f"references.{uri}.")
        reference = _load(uri, before, cfg.runs_dir)
        state = unfinished(uri, reference) if before is None else {k: before[k] for k in (UNFINISHED,) if k in before}
        reference = replace(reference, provenance={**reference.provenance, "uri": uri, **state})
        pinned[uri] = reference.provenance
        if not references.same_tokenizer(reference, tokenizer):
            text = text or ProbeText(probe, tokenizer, cfg.align.unit, cfg.align.take)
            alignments[uri] = text.aligned(None, reference)
            pinned[uri] = {**pinned[uri], "alignment": alignment_summary(alignments[uri])}
        if is_first() and before is None:  # later, the file says where it is, and anyone may have written that
            _keep_checkpoint(Path(reference.provenance["path"]), folder)
    if is_first():
        write_json(path, {**notes, "references": pinned})
    return RunReferences(lambda uri: _load(uri, pinned[uri], cfg.runs_dir).model, alignments)


def unfinished(uri: str, reference: references.Reference) -> dict[str, Any]:
    """Return a mark for provenance.json if `uri` names a run without a step and that run has steps left."""
    checkpoints = Path(reference.provenance["path"]).parent
    open_step = (
        not uri.startswith((*references.FOREIGN, references.PREFIX))
        and "@" not in uri
        and not uri.endswith(references.FILES)
    )
    return {UNFINISHED: True} if open_step and not is_over(read_json(checkpoints.parent / "summary.json")) else {}


def with_step(uri: str, provenance: dict[str, Any]) -> str:
    """Return a reference as the terminal shows it, with its step if the run that it names is unfinished."""
    return f"{uri} at step {provenance.get('step')} of an unfinished run" if provenance.get(UNFINISHED) else uri


def _keep_checkpoint(file: Path, folder: Path) -> None:
    """Mark a checkpoint so that its run does not delete it, because this run reads it whenever it continues."""
    mark = file.with_suffix(PINNED)
    if file.name.startswith("step_") and not mark.exists():
        with suppress(OSError):  # in a folder that cannot be written to, nothing is deleted either
            mark.write_text(f"a reference of {folder.absolute()}\n")


def _load(uri: str, before: dict[str, Any] | None, runs_dir: str) -> references.Reference:
    if before is None:
        return references.load(_last_kept(uri, runs_dir), runs_dir)
    reference = references.load(_pinned(uri, before), runs_dir)
    if reference.provenance["sha256"] != before["sha256"]:
        raise ValueError(
            f"reference {uri!r} is no longer the model that this run began with: the content of {before['path']} has "
            "changed; put it back, or start over with name=... or overwrite=true"
        )
    return reference


def _pinned(uri: str, before: dict[str, Any]) -> str:
    """Return the permanent URI of a reference, which must name the same kind of place as `uri` whoever wrote it."""
    pinned = before["pinned"]
    if uri.startswith(references.PREFIX) and pinned.startswith(references.PREFIX):
        parts = uri.removeprefix(references.PREFIX), {"pinned": pinned.removeprefix(references.PREFIX)}
        return references.PREFIX + _pinned(*parts)
    kind = next((kind for kind in references.FOREIGN if uri.startswith(kind)), "")
    if pinned.startswith((references.PREFIX, *set(references.FOREIGN) - {kind})):
        raise ValueError(
            f"provenance.json of this run says {shown(pinned)} of its reference {uri!r}, which no run writes; "
            "start over with name=... or overwrite=true"
        )
    return pinned


def _last_kept(uri: str, runs_dir: str) -> str:
    """Return a checkpoint that stays if `uri` names the last one of a run: the newest of the schedule."""
    if uri.startswith(references.PREFIX):
        return references.PREFIX + _last_kept(uri.removeprefix(references.PREFIX), runs_dir)
    if uri.startswith(references.FOREIGN):
        return uri
    last = references.resolve(uri, runs_dir)
    if last.name != "last.ckpt":
        return uri
    steps = sorted(last.parent.glob("step_*.ckpt"))
    return str(steps[-1]) if steps else uri
