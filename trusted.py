"""Which classes a file that was read may have built: those of this project, and those that the command itself names.

A config, a checkpoint or a metadata block names classes by `_target_`. What was typed is built as it stands; what was
*read* goes through `check` first. A name is never followed through attributes: it must be, as a whole, one of our
modules and a class that this module defines. Any other import takes the consent of `naming`.
"""

import pkgutil
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from dissimilarity.loading.untrusted import check_plain, shown

CONVERT = ("none", "partial", "object", "all")
SPECIAL = re.compile(r"_\w+_")
"""Keys that Hydra reads as instructions rather than arguments."""

_named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Place:
    """Where a class is expected.

    Attributes:
        noun: What is expected there, for the message.
        package: The package of this project that holds such classes, and the group of conf/ for a user's own.
        accepts: Whether a class is allowed there.
        inside: What is expected among the arguments of such a class.
        foreign: Public names of other packages, with the classes that they name.
    """

    noun: str
    package: str
    accepts: Callable[[type], bool]
    inside: "Place | None" = None
    foreign: Callable[[], Mapping[str, type]] = dict


@contextmanager
def naming(targets: Collection[str]) -> Iterator[None]:
    """Allow files that are read within the block to name these classes too, in any package: `mine.Net`."""
    global _named
    before, _named = _named, _named | frozenset(targets)
    try:
        yield
    finally:
        _named = before


def check(config: Any, place: Place, file: str | Path, key: str = "") -> dict[str, Any]:
    """Check that a config that was read builds nothing but what is expected at its place.

    Args:
        config: The config, with a `_target_`.
        place: What may be built, at any depth.
        file: The file it was read from, for the message.
        key: The key it was read under, for the message.

    Returns:
        `config`.

    Raises:
        ValueError: If it builds anything else; names the file, the key and what to type.
    """
    check_plain(config, file)
    if type(config) is not dict or type(config.get("_target_")) is not str:
        raise ValueError(f"{file}: {key}: expected settings with a `_target_`, found {shown(config)}")
    stack: list[tuple[str, Any, Place]] = [(key, config, place)]
    while stack:
        key, node, current = stack.pop()
        if isinstance(node, dict):
            _check_instructions(node, key, current, file)
        if isinstance(node, str) and "${" in node:
            raise ValueError(
                f"{file}: {shown(key)}={shown(node)}: this is an interpolation, and files contain resolved values only"
            )
        stack += [(name, item, place.inside or place) for name, item in _items(node, key)]
    return config


def _items(node: Any, key: str) -> list[tuple[str, Any]]:
    """Return the entries of a dict or list with their keys."""
    if isinstance(node, dict):
        return [(f"{key}.{name}" if key else str(name), item) for name, item in node.items()]
    return [(f"{key}[{index}]", item) for index, item in enumerate(node)] if isinstance(node, list) else []


def _check_instructions(node: dict[Any, Any], key: str, place: Place, file: str | Path) -> None:
    """Check the keys of a dict that Hydra reads as instructions."""
    for name, value in node.items():
        path = f"{key}.{name}" if key else str(name)
        if name == "_target_":
            class_named(value, place, file, path)
        elif (name == "_partial_" and type(value) is bool) or (name == "_convert_" and value in CONVERT):
            continue
        elif type(name) is str and (SPECIAL.fullmatch(name) or "${" in name):
            raise ValueError(
                f"{file}: {shown(path)}={shown(value)}: in a file, _target_, _partial_ and _convert_ are the "
                "only instructions"
            )


def class_named(target: Any, place: Place, file: str | Path, key: str) -> type:
    """Return the class that a file names.

    Args:
        target: The name.
        place: What is expected.
        file: The file it was read from, for the message.
        key: The key it was read under, for the message.

    Raises:
        ValueError: If it is not a class of this project for this place, and the command does not name it.
    """
    named = None
    if type(target) is str:
        named = place.foreign().get(target) or _own_class(target, place.package) or _named_class(target, file, key)
    if named is not None and (target in place.foreign() or place.accepts(named)):
        return named
    group = {"models": "model"}.get(place.package, place.package)
    raise ValueError(
        f"{file}: {shown(key)}={shown(target)} is not {place.noun} of this project, and a file may name "
        f"nothing else. If it is your own, name it in this command: hydra.searchpath=[file://FOLDER] with a "
        f"FOLDER/{group}/MINE.yaml that has this _target_ (docs/extending.md)"
    )


def _own_class(target: str, package: str) -> type | None:
    """Return the class that one of our modules defines under exactly this name."""
    module, _, name = target.rpartition(".")
    if module not in _modules(package):
        return None
    member = vars(import_module(module)).get(name)
    is_defined_there = isinstance(member, type) and (member.__module__, member.__qualname__) == (module, name)
    return member if is_defined_there else None


def _named_class(target: str, file: str | Path, key: str) -> type | None:
    """Return a class that the command names, directly or through one of its methods, in any package."""
    if not any(name == target or name.startswith(f"{target}.") for name in _named):
        return None
    try:
        resolved = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file}: {shown(key)}={target} cannot be imported ({error}); a class of your own must be importable as it "
            "was in training: PYTHONPATH=FOLDER"
        ) from error
    return resolved if isinstance(resolved, type) else None


@cache
def _modules(package: str) -> frozenset[str]:
    """Return the names of the modules in the folder of one of our packages."""
    root = import_module(package)
    return frozenset(module.name for module in pkgutil.walk_packages(root.__path__, f"{package}."))
