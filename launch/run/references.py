"""The references of a run: found before it trains, and the same checkpoints whenever it goes on."""

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
from dissimilarity.tracking.references import OWN
from dissimilarity.tracking.schedule import PINNED
from launch.run.alignment import ProbeText, alignment_summary
from launch.run.folder import is_over, read_json, write_json
from launch.run.ranks import is_first
from models import references

UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Found:
    """The references of a run.

    Attributes:
        load: turns a URI into a module.
        alignments: of those that read other tokens than the run, by URI: what the run and the reference are given.
    """

    load: Callable[[str], nn.Module]
    alignments: dict[str, Alignment]


def find(cfg: DictConfig, folder: Path, tokenizer: Tokenizer, probe: Tensor) -> Found:
    """Looks up each of `cfg.references`, and pins it in provenance.json.

    `runs/NAME` moves on while that run trains, so a continuation of this one compares with the checkpoint that its
    first start found, and refuses another one under the same path.

    Args:
        cfg: the config.
        folder: of the run.
        tokenizer: of the run.
        probe: its probe set, whose text models of other tokenizers are given in theirs.

    Raises:
        ValueError: a reference is missing, damaged, changed since the first start, or cannot be aligned.
    """
    path = folder / "provenance.json"
    notes = read_json(path)
    pinned: dict[str, dict[str, Any]] = notes.get("references", {})
    alignments, text = {}, None
    for uri in cfg.references:
        if uri in OWN:
            continue
        before = pinned.get(uri)
        reference = _load(uri, before, cfg.runs_dir)
        state = unfinished(uri, reference) if before is None else {k: before[k] for k in (UNFINISHED,) if k in before}
        reference = replace(reference, provenance={**reference.provenance, "uri": uri, **state})
        pinned[uri] = reference.provenance
        if not references.reads_alike(reference, tokenizer):
            text = text or ProbeText(probe, tokenizer, cfg.align.unit, cfg.align.take)
            alignments[uri] = text.aligned(None, reference)
            pinned[uri] = {**pinned[uri], "alignment": alignment_summary(alignments[uri])}
    if is_first():
        write_json(path, {**notes, "references": pinned})
        for provenance in pinned.values():
            _hold(Path(provenance["path"]), folder)
    return Found(lambda uri: _load(uri, pinned[uri], cfg.runs_dir).model, alignments)


def unfinished(uri: str, reference: references.Reference) -> dict[str, Any]:
    """A mark for provenance.json where `uri` leaves the step open, and names a run that has steps left to make."""
    checkpoints = Path(reference.provenance["path"]).parent
    open_step = not uri.startswith(references.FOREIGN) and "@" not in uri and not uri.endswith(references.FILES)
    return {UNFINISHED: True} if open_step and not is_over(read_json(checkpoints.parent / "summary.json")) else {}


def with_step(uri: str, provenance: dict[str, Any]) -> str:
    """A reference as the terminal shows it, with the step that was taken where that is not the run's last."""
    return f"{uri} at step {provenance['step']} of an unfinished run" if provenance.get(UNFINISHED) else uri


def _hold(file: Path, folder: Path) -> None:
    """Keeps the run that a checkpoint is of from deleting it: this run reads it whenever it goes on."""
    mark = file.with_suffix(PINNED)
    if file.name.startswith("step_") and not mark.exists():
        with suppress(OSError):  # a folder that cannot be written to is not thinned either
            mark.write_text(f"a reference of {folder.absolute()}\n")


def _load(uri: str, before: dict[str, Any] | None, runs_dir: str) -> references.Reference:
    if before is None:
        return references.load(_settled(uri, runs_dir), runs_dir)
    reference = references.load(_pinned(uri, before), runs_dir)
    if reference.provenance["sha256"] != before["sha256"]:
        raise ValueError(
            f"reference {uri!r} is no longer what this run was begun with: {before['path']} has another content; "
            "put it back, or begin anew with name=... or overwrite=true"
        )
    return reference


def _pinned(uri: str, before: Any) -> str:
    """The URI that stands for a reference for ever: whoever wrote it, it is asked of no other place than `uri` is."""
    pinned = before.get("pinned") if isinstance(before, dict) else None
    kind = next((kind for kind in references.FOREIGN if uri.startswith(kind)), "")
    if (
        not isinstance(pinned, str)
        or pinned.startswith(tuple(set(references.FOREIGN) - {kind}))
        or not {"sha256", "path"} <= before.keys()
    ):
        raise ValueError(
            f"provenance.json of this run says {shown(str(before))} of its reference {uri!r}, which no run writes; "
            "begin anew with name=... or overwrite=true"
        )
    return pinned


def _settled(uri: str, runs_dir: str) -> str:
    """The checkpoint that stays, where `uri` names a run's last one: that of the same step, if the schedule kept it."""
    if uri.startswith(references.FOREIGN):
        return uri
    last = references.resolve(uri, runs_dir)
    if last.name != "last.ckpt":
        return uri
    steps = sorted(last.parent.glob("step_*.ckpt"))
    return str(steps[-1]) if steps else uri
