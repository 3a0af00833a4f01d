"""What a file that was read may have built: classes of this project, and those that the command itself names.

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
"""The keys that Hydra takes for orders rather than for arguments."""

_named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Place:
    """Where a class is expected.

    Attributes:
        what: it is expected to be, for the message.
        package: of ours that holds such classes; also the group of conf/ in which a user's own are named.
        accepts: whether a class is one.
        inside: where classes among its arguments are expected.
        foreign: public names of other packages, with the classes that they mean.
    """

    what: str
    package: str
    accepts: Callable[[type], bool]
    inside: "Place | None" = None
    foreign: Callable[[], Mapping[str, type]] = dict


@contextmanager
def naming(targets: Collection[str]) -> Iterator[None]:
    """Let files that are read inside name these classes too, whatever package they are of: `mine.Net`."""
    global _named
    before, _named = _named, _named | frozenset(targets)
    try:
        yield
    finally:
        _named = before


def check(config: Any, place: Place, file: str | Path, key: str = "") -> dict[str, Any]:
    """Make sure that a config that was read builds nothing but what is expected at its place.

    Args:
        config: with a `_target_`.
        place: what may be built, at any depth.
        file, key: where it was read, for the message.

    Returns:
        `config`.

    Raises:
        ValueError: names the file, the key and what to type.
    """
    check_plain(config, file)
    if type(config) is not dict or type(config.get("_target_")) is not str:
        raise ValueError(f"{file}: {key}: expected settings with a `_target_`, found {shown(config)}")
    stack: list[tuple[str, Any, Place]] = [(key, config, place)]
    while stack:
        key, node, here = stack.pop()
        if isinstance(node, dict):
            _check_orders(node, key, here, file)
        if isinstance(node, str) and "${" in node:
            raise ValueError(f"{file}: {shown(key)}={shown(node)}: an interpolation; what is read is written resolved")
        stack += [(name, item, place.inside or place) for name, item in _items(node, key)]
    return config


def _items(node: Any, key: str) -> list[tuple[str, Any]]:
    """What a dict or list holds, with the keys to it."""
    if isinstance(node, dict):
        return [(f"{key}.{name}" if key else str(name), item) for name, item in node.items()]
    return [(f"{key}[{index}]", item) for index, item in enumerate(node)] if isinstance(node, list) else []


def _check_orders(node: dict[Any, Any], key: str, place: Place, file: str | Path) -> None:
    """Check the keys of a dict that Hydra takes for orders."""
    for name, value in node.items():
        path = f"{key}.{name}" if key else str(name)
        if name == "_target_":
            class_named(value, place, file, path)
        elif (name == "_partial_" and type(value) is bool) or (name == "_convert_" and value in CONVERT):
            continue
        elif type(name) is str and (SPECIAL.fullmatch(name) or "${" in name):
            raise ValueError(
                f"{file}: {shown(path)}={shown(value)}: in what is read, _target_, _partial_ and _convert_ are "
                "the only orders"
            )


def class_named(target: Any, place: Place, file: str | Path, key: str) -> type:
    """The class that a file names.

    Args:
        target: the name.
        place: what is expected.
        file, key: where it was read, for the message.

    Raises:
        ValueError: it is not one of this project's for this place, and the command does not name it.
    """
    found = None
    if type(target) is str:
        found = place.foreign().get(target) or _own_class(target, place.package) or _named_class(target, file, key)
    if found is not None and (target in place.foreign() or place.accepts(found)):
        return found
    group = {"models": "model"}.get(place.package, place.package)
    raise ValueError(
        f"{file}: {shown(key)}={shown(target)} is not {place.what} of this project, and nothing else is built "
        f"from what a file says. If it is your own, name it in this command: hydra.searchpath=[file://FOLDER] with a "
        f"FOLDER/{group}/MINE.yaml that has this _target_ (docs/extending.md)"
    )


def _own_class(target: str, package: str) -> type | None:
    """The class that one of our modules defines under this very name, and no other."""
    module, _, name = target.rpartition(".")
    if module not in _modules(package):
        return None
    found = vars(import_module(module)).get(name)
    is_its_own = isinstance(found, type) and (found.__module__, found.__qualname__) == (module, name)
    return found if is_its_own else None


def _named_class(target: str, file: str | Path, key: str) -> type | None:
    """A class that the command named, wherever it is; what is named may also be a function of the class."""
    if not any(name == target or name.startswith(f"{target}.") for name in _named):
        return None
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file}: {shown(key)}={target} cannot be imported ({error}); a class of your own must be importable as it "
            "was in training: PYTHONPATH=FOLDER"
        ) from error
    return found if isinstance(found, type) else None


@cache
def _modules(package: str) -> frozenset[str]:
    """The modules of one of our packages, as they lie in its folder."""
    root = import_module(package)
    return frozenset(module.name for module in pkgutil.walk_packages(root.__path__, f"{package}."))
