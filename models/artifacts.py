"""Checkpoints kept as artifacts of Weights & Biases: downloaded once, to a cache by full version."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from dissimilarity.tables.files import replacing

SECONDS = 10
"""How long the server may take to answer."""
FORM = "wandb:ENTITY/PROJECT/ARTIFACT:VERSION"
NOTE = "artifact.json"
MODELS = ("**/*.ckpt", "**/*.safetensors")


def file_of(uri: str) -> tuple[Path, dict[str, Any]]:
    """The model file of `wandb:entity/project/artifact:version`, downloaded if need be.

    A version (v3) that was downloaded before is taken from the cache and asks no server; an alias (latest, step_512)
    is looked up each time.

    Returns:
        the one .ckpt or .safetensors file in the artifact, and `version`, `digest` and the URI that is `pinned`.

    Raises:
        ValueError: not of that form, no way to the server, no such artifact, or no model in it.
    """
    name, _, version = uri.removeprefix("wandb:").partition(":")
    parts = name.split("/")
    if len(parts) != 3 or not all(parts) or not version or any(part in (".", "..") for part in (*parts, version)):
        raise ValueError(f"reference {uri!r}: expected {FORM}, such as wandb:me/dissimilarity/solu-w512-d2-s0:v3")
    home = _cache().joinpath(*parts)
    folder = home / version
    if not (folder / NOTE).is_file():
        folder = _download(uri, name, version, home)
    note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    found = [path for pattern in MODELS for path in sorted(folder.glob(pattern))]
    if len(found) != 1:
        there = ", ".join(sorted(path.name for path in folder.rglob("*") if path.name != NOTE)) or "nothing"
        raise ValueError(f"reference {uri!r}: expected one .ckpt or .safetensors file in the artifact, found {there}")
    return found[0], {**note, "pinned": f"wandb:{name}:{note['version']}"}


def _download(uri: str, name: str, version: str, home: Path) -> Path:
    """Downloads an artifact beside its place and moves it there, so that what is in the cache is whole."""
    have = sorted(path.parent.name for path in home.glob(f"*/{NOTE}"))
    instead = f"give one that was downloaded before ({', '.join(have)}), or " if have else "give "
    instead += "the path of a .ckpt file"
    artifact = _artifact(uri, name, version, instead)
    folder = home / artifact.version
    if (folder / NOTE).is_file():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(folder) as part:
            artifact.download(root=str(part))
            note = {"version": artifact.version, "digest": artifact.digest}
            (part / NOTE).write_text(json.dumps(note), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:  # the server's, the network's and W&B's own
        raise ValueError(f"reference {uri!r}: cannot download it ({error}); {instead}") from error
    return folder


def _artifact(uri: str, name: str, version: str, instead: str) -> Any:
    """W&B's description of an artifact. Neither an offline machine nor one without a key is made to wait or asked."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled", "dryrun"):
        raise ValueError(f"reference {uri!r}: it is not in the cache, and WANDB_MODE={mode}; {instead}")
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"reference {uri!r} needs wandb: pip install -e .; {instead}") from error
    try:
        if not wandb.login(prompt=False, verify=False):
            raise ValueError("it wants a key: set WANDB_API_KEY, or type wandb login")
        artifact = wandb.Api(timeout=SECONDS).artifact(f"{name}:{version}")
    except Exception as error:  # the server's, the network's and W&B's own
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"reference {uri!r}: W&B does not give it ({first}); {instead}") from error
    if not re.fullmatch(r"v\d+", artifact.version):
        raise ValueError(f"reference {uri!r}: W&B gives it without a version ({artifact.version}); {instead}")
    return artifact


def _cache() -> Path:
    """W&B's own cache, of which this is a part."""
    from wandb.env import get_cache_dir

    return get_cache_dir() / "references"
