"""What a model in training is compared with: its own earlier states, and other models."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

OWN = ("init", "previous")
"""The model's own states: at step 0, and at the tick before."""


def named_references(
    references: Sequence[str] | Mapping[str, str | nn.Module],
) -> dict[str, str | nn.Module]:
    """Return references by label: the last part of a URI if that is unique, else the whole URI.

    Example:
        >>> list(named_references(["init", "runs/a", "x/b", "y/b"]))
        ['init', 'a', 'x/b', 'y/b']
    """
    if isinstance(references, Mapping):
        return dict(references)
    uris = list(dict.fromkeys(references))
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in uris]
    return {
        uri if names.count(name) > 1 or (name in OWN and uri != name) else name: uri
        for uri, name in zip(uris, names, strict=True)
    }


def as_module(source: str | nn.Module, load: Callable[[str], nn.Module] | None) -> nn.Module:
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
        raise ValueError(f"reference {source!r}: expected a module; pass load= to turn URIs into modules")
    return load(source)
