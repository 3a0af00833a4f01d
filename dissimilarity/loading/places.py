"""Find the folder of a model of Hugging Face transformers: here, in the cache of the hub, or on the hub.

Nothing here needs torch or transformers, so a command line can say at once that there is no such model.
"""

from importlib.util import find_spec
from pathlib import Path

from dissimilarity.loading import adapters
from dissimilarity.loading.config import WEIGHTS, weights_in
from dissimilarity.loading.hub import download, downloaded

FILES = [
    "config.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "generation_config.json",
]
"""Files to download of a model. If it has no safetensors, a second request downloads its pickles."""
GGUF = ".gguf"


def folder_of(uri: str) -> tuple[Path, str | None]:
    """Return the folder of a Hugging Face URI, downloaded if needed, and its commit.

    Args:
        uri: `hf:FOLDER`, `hf:FOLDER/FILE.gguf`, `hf:ORG/MODEL` or `hf:ORG/MODEL@REVISION`.

    Returns:
        the folder, or the GGUF file; and the full hash of the revision on the hub, None for a local folder.

    Raises:
        ValueError: no such folder, model or revision, or the hub cannot be reached.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     folder_of(f"hf:{folder}") == (Path(folder), None)
        True
    """
    name = uri.removeprefix("hf:")
    is_gguf = name.lower().endswith(GGUF)
    if Path(name).is_dir() or (is_gguf and Path(name).is_file()):
        return Path(name), None
    model, _, revision = name.partition("@")
    if model.startswith((".", "/", "~")) or model.count("/") != 1 or is_gguf:
        kind = "file" if is_gguf else "folder"
        raise ValueError(
            f"reference {uri!r}: there is no {kind} {Path(name).absolute()}; give hf:FOLDER, as save_pretrained wrote "
            "it, hf:FOLDER/FILE.gguf, or hf:ORG/MODEL@REVISION for a model on the Hugging Face hub"
        )
    require_transformers(uri)
    instead = "give the folder of a copy, hf:FOLDER"
    folder, commit = download(model, revision or None, FILES, uri, instead)
    if not weights_in(folder):
        folder, commit = download(model, commit, [*FILES, WEIGHTS[1], "*.bin.index.json"], uri, instead)
    return folder, commit


def base_folder(folder: Path, uri: str) -> Path:
    """Return the folder of the base of an adapter: from the current folder, that of the adapter, or the hub's cache.

    Raises:
        ValueError: it is not on this machine; names the places.
    """
    name = adapters.base_of(folder, uri)
    places = list(dict.fromkeys([Path(name).absolute(), (folder / name).absolute()]))
    cached = None if any(place.is_dir() for place in places) else downloaded(name)
    base = next((place for place in (*places, cached) if place is not None and _is_model(place)), None)
    if base is None:
        is_folder = name.count("/") != 1 or name.startswith((".", "~"))
        where = "put it there" if is_folder else f"download it by naming hf:{name}"
        tried = " or ".join(map(str, places))
        raise ValueError(
            f"reference {uri!r}: the base of this adapter, {name!r}, is no folder of a model at {tried}, nor in the "
            f"cache of the hub; {where}, or merge the adapter into its base with peft"
        )
    return base


def _is_model(folder: Path) -> bool:
    return folder.is_dir() and not adapters.is_adapter(folder)


def require_transformers(uri: str) -> None:
    """Check that transformers is installed.

    Raises:
        ValueError: it is not; says what to type.
    """
    if find_spec("transformers") is None:
        raise ValueError(f"reference {uri!r} needs Hugging Face transformers: pip install 'dissimilarity[hf]'")
