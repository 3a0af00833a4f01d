"""Where the two sides of a comparison are, from what was typed. Nothing here needs torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from os.path import abspath
from pathlib import Path

from dissimilarity.cli.memory import Size, size_of
from dissimilarity.cli.messages import FORMS
from dissimilarity.comparison.array_files import is_saved
from dissimilarity.loading import adapters, places
from dissimilarity.tables.names import name_of

ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
"""How the hub names models."""
CLONE = Path(__file__).parents[2]
"""The folder that holds the application, in a clone of the repository."""


@dataclass(frozen=True)
class Place:
    """Where a side is.

    Attributes:
        argument: what was typed.
        path: the folder or file; None for a run of the application.
        label: name in tables, figures and messages.
        commit: the revision on the hub; None for local files.
        is_saved: whether it holds activations and not a model.
    """

    argument: str
    path: Path | None
    label: str
    commit: str | None = None
    is_saved: bool = False

    @property
    def uri(self) -> str:
        """The argument as the reference that it stands for."""
        return self.argument if self.path is None or self.argument.startswith("hf:") else f"hf:{self.argument}"

    @cached_property
    def folder(self) -> Path | None:
        """The folder with the config and the weights of the model: that of an adapter's base; None without one."""
        if self.is_saved or self.path is None or not self.path.is_dir():
            return None
        return places.base_folder(self.path, self.uri) if adapters.is_adapter(self.path) else self.path

    @cached_property
    def tokenizer(self) -> Path | None:
        """The tokenizer.json of the model: the adapter's own before that of its base; None without one."""
        folders = [folder for folder in (self.path, self.folder) if folder is not None]
        files = (folder / "tokenizer.json" for folder in folders if folder.is_dir())
        return next((file for file in files if file.is_file()), None)

    @cached_property
    def size(self) -> Size | None:
        """The sizes of the model; None if no files tell them."""
        if self.is_saved or self.path is None:
            return None
        return size_of(self.folder or self.path)


def find_place(argument: str) -> Place:
    """Find the model, or the saved activations, that an argument names; a model of the hub is downloaded.

    Args:
        argument: what was typed.

    Raises:
        ValueError: it names nothing that can be read.
    """
    if not argument.removeprefix("hf:").strip():
        raise ValueError(f"{argument!r} names no model; expected {FORMS}")
    path = Path(argument)
    if is_saved(argument):
        if not path.exists():
            raise ValueError(f"{argument}: there is no file {path.absolute()}{_hint(argument)}")
        return Place(argument, path, path.name if path.is_dir() else path.stem, is_saved=True)
    if argument.startswith("runs/") or argument.endswith(".ckpt") or _is_run(argument):
        return _run(argument)
    if not argument.startswith("hf:") and not path.exists():
        hint = _hint(argument)
        raise ValueError(f"{argument}: there is no {path.absolute()}{hint or f'; expected {FORMS}'}")
    place = Place(argument, Path(), name_of(argument))
    try:
        folder, commit = places.folder_of(place.uri)
    except ValueError as error:
        raise ValueError(f"{error}{nearest(Path(argument.removeprefix('hf:')))}") from error
    return replace(place, path=folder, commit=commit)


def told_apart(places: Sequence[Place]) -> list[Place]:
    """Return two places whose names differ: where both are equal, with the folder around each, or else A and B.

    Examples:
        >>> pair = [Place("old/model", Path("old/model"), "model"), Place("hf:new/model", Path("new/model"), "model")]
        >>> [place.label for place in told_apart(pair)]
        ['old/model', 'new/model']
    """
    if len({place.label for place in places}) == len(places):
        return list(places)
    folders = [Path(abspath(place.argument.removeprefix("hf:"))).parent.name for place in places]
    are_known = len({*folders, ""}) == len(places) + 1
    labels = [
        f"{folder}/{place.label}" if are_known else f"{place.label} ({letter})"
        for folder, place, letter in zip(folders, places, "AB", strict=True)
    ]
    return [replace(place, label=label) for place, label in zip(places, labels, strict=True)]


def _is_run(argument: str) -> bool:
    """Return whether the folder of a path, before the step that may follow it, is that of a run of the application."""
    folder = Path(argument.partition("@")[0])
    is_run = (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()
    return is_run and not (folder / "config.json").exists()


def _run(argument: str) -> Place:
    """Find a run or a checkpoint of the application, which is there in a clone: beside the package.

    Raises:
        ValueError: there is no clone, or no such run.
    """
    if not (CLONE / "models" / "references.py").is_file():
        raise ValueError(
            f"{argument}: runs can be read only in a clone of the repository (pip install -e .); export this one there "
            "with python analyze.py study=export study.to=huggingface, and give hf:FOLDER"
        )
    path = Path(argument if argument.endswith(".ckpt") else argument.partition("@")[0])
    if not path.exists():
        raise ValueError(f"{argument}: there is no {path.absolute()}{nearest(path)}")
    return Place(argument, None, name_of(argument))


def _hint(argument: str) -> str:
    """Return what somebody may have meant; empty if nothing is near."""
    if question := nearest(Path(argument)):
        return question
    return f"; for a model of the Hugging Face hub, type hf:{argument}" if ON_HUB.fullmatch(argument) else ""


def nearest(path: Path) -> str:
    """Return a question about the file or folder whose name is nearest; empty if none is near."""
    try:
        names = [other.name for other in path.absolute().parent.iterdir()]
    except OSError:
        return ""
    matches = [name for name in get_close_matches(path.name, names, 1, 0.75) if name != path.name]
    return f"; did you mean {path.with_name(matches[0])}?" if matches else ""
