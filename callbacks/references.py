"""What a model in training is compared with: its own earlier states, and models by URI."""

from collections.abc import Mapping, Sequence

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
