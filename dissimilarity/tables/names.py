"""Names of models in tables and figures, from the URIs by which they are loaded."""

import os

UNTRAINED = "untrained"
"""The reference that is a model before training, and what comes before the URI of another such model."""

STATES = ("init", "previous", "base", UNTRAINED)
"""References that are states of the model in training, and no paths."""


def normal_form(uri: str) -> str:
    """Return what all ways to write a path in a URI have in common.

    Examples:
        >>> normal_form("runs/x") == normal_form("./runs//x/"), normal_form("hf:a/b") == normal_form("a/b")
        (True, False)
    """
    if uri in STATES:
        return uri
    prefix, colon, path = uri.rpartition(":")
    return f"{prefix}{colon}{os.path.realpath(os.path.expanduser(path))}"


def name_of(uri: str) -> str:
    """Return the last part of a URI, and that it is untrained.

    Examples:
        >>> name_of("runs/a"), name_of("hf:model"), name_of("untrained:runs/a")
        ('a', 'model', 'untrained-a')
    """
    prefix = f"{UNTRAINED}:"
    last = uri.removeprefix(prefix).removeprefix("hf:").rstrip("/").rsplit("/", 1)[-1]
    return f"{UNTRAINED}-{last}" if uri.startswith(prefix) else last or uri
