"""The references of a model in training: its own earlier states, and other models."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

from torch import nn

OWN = ("init", "previous")
"""The model's own states: at step 0, and a fixed number of steps before a tick."""

Source = str | nn.Module


def is_own(source: Source) -> TypeGuard[str]:
    """Return whether a reference is a state of the model in training, whatever its label says."""
    return isinstance(source, str) and source in OWN


def named_references(references: str | Sequence[str] | Mapping[str, Source]) -> dict[str, Source]:
    """Return references by label: the last part of a URI if that is unique, else the whole URI.

    Raises:
        ValueError: a module has no label, or a reference is neither a URI nor a module.

    Example:
        >>> list(named_references(["init", "runs/a", "x/b", "y/b"]))
        ['init', 'a', 'x/b', 'y/b']
    """
    if isinstance(references, Mapping):
        return {label: _checked(source) for label, source in references.items()}
    if isinstance(references, nn.Module):
        raise ValueError(f"references: a {type(references).__name__} has no label; pass {{'teacher': module}}")
    uris = list(dict.fromkeys([references] if isinstance(references, str) else references))
    for uri in uris:
        if not isinstance(_checked(uri), str):
            raise ValueError(
                f"references: a {type(uri).__name__} has no label; pass {{'init': 'init', 'teacher': module}}"
            )
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in uris]
    return {
        uri if names.count(name) > 1 or (name in OWN and uri != name) else name: uri
        for uri, name in zip(uris, names, strict=True)
    }


def as_module(source: Source, load: Callable[[str], nn.Module] | None) -> nn.Module:
    """Return a reference that is not one of the model's own states as a module.

    Args:
        source: a module or a URI.
        load: turns a URI into a module.

    Raises:
        ValueError: ``source`` is a URI and there is no ``load``.
    """
    if isinstance(source, nn.Module):
        return source
    if load is None:
        raise ValueError(
            f"reference {source!r}: expected {', '.join(OWN)} or a module; pass load= to turn URIs into modules"
        )
    return load(source)


def _checked(source: Source) -> Source:
    if not isinstance(source, (str, nn.Module)):
        raise ValueError(f"references: expected {', '.join(OWN)}, URIs or modules, found {source!r}")
    return source
