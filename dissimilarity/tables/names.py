"""Names of models in tables and figures, from the URIs by which they are loaded."""

UNTRAINED = "untrained"
"""The reference that is a model before training, and what comes before the URI of another such model."""


def name_of(uri: str) -> str:
    """Return the last part of a URI, and that it is untrained.

    Examples:
        >>> name_of("runs/a"), name_of("hf:model"), name_of("untrained:runs/a")
        ('a', 'model', 'untrained-a')
    """
    prefix = f"{UNTRAINED}:"
    last = uri.removeprefix(prefix).removeprefix("hf:").rstrip("/").rsplit("/", 1)[-1]
    return f"{UNTRAINED}-{last}" if uri.startswith(prefix) else last or uri
