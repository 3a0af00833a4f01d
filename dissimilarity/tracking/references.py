"""What a model in training is compared with: its own earlier states, and models by URI."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

OWN = ("init", "previous")
"""The model's own states: at step 0, and at the tick before."""


def named_references(
    references: Sequence[str] | Mapping[str, str | nn.Module],
) -> dict[str, str | nn.Module]:
    """References by label: the last part of a URI where that tells them apart, the whole URI elsewhere."""
    if isinstance(references, Mapping):
        return dict(references)
    uris = list(dict.fromkeys(references))
    short = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in uris]
    return {
        uri if short.count(name) > 1 or (name in OWN and uri != name) else name: uri
        for uri, name in zip(uris, short, strict=True)
    }


def as_module(source: str | nn.Module, load: Callable[[str], nn.Module] | None) -> nn.Module:
    """A reference that is not one of the model's own states: a module, or what ``load`` makes of its URI.

    Raises:
        ValueError: a URI, and nothing that loads it.
    """
    if isinstance(source, nn.Module):
        return source
    if load is None:
        raise ValueError(f"reference {source!r} is a name, and no load= was given that turns names into modules")
    return load(source)
