"""The references of a run: found before it trains, and the same checkpoints whenever it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tokenizers import Tokenizer
from torch import nn

from callbacks.references import OWN
from launch.folder import read_json, write_json
from launch.ranks import is_first
from models import references


def loader(cfg: DictConfig, folder: Path, tokenizer: Tokenizer) -> Callable[[str], nn.Module]:
    """What turns the URIs of `cfg.references` into modules; each is looked up here, and pinned in provenance.json.

    `runs/NAME` moves on while that run trains, so a continuation of this one compares with the checkpoint that its
    first start found, and refuses another one under the same path.

    Raises:
        ValueError: a reference is missing, damaged, changed since the first start, or of another tokenizer.
    """
    path = folder / "provenance.json"
    notes = read_json(path)
    pinned: dict[str, dict[str, Any]] = notes.get("references", {})
    for uri in cfg.references:
        if uri not in OWN:
            reference = _load(uri, pinned.get(uri), cfg.runs_dir)
            references.check_tokenizer(reference, tokenizer)
            pinned[uri] = {**reference.provenance, "uri": uri}
    if is_first():
        write_json(path, {**notes, "references": pinned})
    return lambda uri: _load(uri, pinned[uri], cfg.runs_dir).model


def _load(uri: str, before: dict[str, Any] | None, runs_dir: str) -> references.Reference:
    if before is None:
        return references.load(_settled(uri, runs_dir), runs_dir)
    reference = references.load(before["pinned"], runs_dir)
    if reference.provenance["sha256"] != before["sha256"]:
        raise ValueError(
            f"reference {uri!r} is no longer what this run was begun with: {before['path']} has another content; "
            "put it back, or begin anew with name=... or overwrite=true"
        )
    return reference


def _settled(uri: str, runs_dir: str) -> str:
    """The checkpoint that stays, where `uri` names a run's last one: that of the same step, if the schedule kept it."""
    if uri.startswith(references.FOREIGN):
        return uri
    last = references.resolve(uri, runs_dir)
    if last.name != "last.ckpt":
        return uri
    steps = sorted(last.parent.glob("step_*.ckpt"))
    return str(steps[-1]) if steps else uri
