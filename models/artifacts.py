"""Checkpoints that are artifacts of Weights & Biases, downloaded once to a cache by full version."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dissimilarity.loading.untrusted import read_json, shown
from dissimilarity.tables.files import replacing

SECONDS = 10
"""Seconds to wait for an answer from the server."""
FORM = "wandb:ENTITY/PROJECT/ARTIFACT:VERSION"
NOTE = "artifact.json"
MODELS = ("**/*.ckpt", "**/*.safetensors")


def file_of(uri: str) -> tuple[Path, dict[str, Any]]:
    """Return the model file of `wandb:entity/project/artifact:version`, downloading it if necessary.

    A version (v3) that was downloaded before comes from the cache without asking the server; an alias (latest,
    step_512) is resolved each time.

    Returns:
        The one .ckpt or .safetensors file of the artifact, and its `version`, `digest` and permanent URI, `pinned`.

    Raises:
        ValueError: If the URI has another form, the server cannot be reached, or it has no such artifact or model.
    """
    name, _, version = uri.removeprefix("wandb:").partition(":")
    parts = name.split("/")
    if len(parts) != 3 or not all(parts) or not version or any(part in (".", "..") for part in (*parts, version)):
        raise ValueError(f"reference {uri!r}: expected {FORM}, such as wandb:me/dissimilarity/solu-w512-d2-s0:v3")
    home = _cache().joinpath(*parts)
    folder = home / version
    if not (folder / NOTE).is_file():
        folder = _download(uri, name, version, home)
    note = read_json(folder / NOTE)
    files = [path for pattern in MODELS for path in sorted(folder.glob(pattern)) if path.is_file()]
    if len(files) != 1:
        names = ", ".join(sorted(path.name for path in folder.rglob("*") if path.name != NOTE)) or "nothing"
        raise ValueError(f"reference {uri!r}: expected one .ckpt or .safetensors file in the artifact, found {names}")
    return files[0], {**note, "pinned": f"wandb:{name}:{note['version']}"}


def _download(uri: str, name: str, version: str, home: Path) -> Path:
    """Download an artifact and then move it to its place, so that the cache holds complete artifacts only."""
    cached = sorted(path.parent.name for path in home.glob(f"*/{NOTE}"))
    instead = f"give one that was downloaded before ({', '.join(cached)}), or " if cached else "give "
    instead += "the path of a .ckpt file"
    artifact = _artifact(uri, name, version, instead)
    folder = home / artifact.version
    if (folder / NOTE).is_file():
        return folder
    try:
        _check_entries(artifact.manifest.entries)
        home.mkdir(parents=True, exist_ok=True)
        with replacing(folder) as part:
            artifact.download(root=str(part))
            note = {"version": artifact.version, "digest": artifact.digest}
            (part / NOTE).write_text(json.dumps(note), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:  # the server's, the network's and W&B's own
        raise ValueError(f"reference {uri!r}: cannot download it ({error}); {instead}") from error
    return folder


def _check_entries(entries: Mapping[str, Any]) -> None:
    """Reject an artifact whose files W&B would fetch from elsewhere, or put elsewhere.

    Raises:
        ValueError: If a file of it is a reference to another place, or its path leads out of the artifact.
    """
    for name, entry in entries.items():
        if entry.ref is not None:
            raise ValueError(f"its file {shown(name)} is a reference to {shown(str(entry.ref))}")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"its file {shown(name)} lies outside of the artifact")


def _artifact(uri: str, name: str, version: str, instead: str) -> Any:
    """Return W&B's description of an artifact, without waiting when offline and without asking for a key."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled", "dryrun"):
        raise ValueError(f"reference {uri!r}: it is not in the cache, and WANDB_MODE={mode}; {instead}")
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"reference {uri!r} needs wandb: pip install -e .; {instead}") from error
    try:
        if not wandb.login(prompt=False, verify=False):
            raise ValueError("it requires a key: set WANDB_API_KEY, or type wandb login")
        artifact = wandb.Api(timeout=SECONDS).artifact(f"{name}:{version}")
    except Exception as error:  # the server's, the network's and W&B's own
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"reference {uri!r}: W&B does not return it ({first}); {instead}") from error
    if not re.fullmatch(r"v\d+", artifact.version):
        raise ValueError(f"reference {uri!r}: W&B returns it without a version ({artifact.version}); {instead}")
    return artifact


def _cache() -> Path:
    """Return the folder for artifacts in the cache of W&B."""
    from wandb.env import get_cache_dir

    return get_cache_dir() / "references"
