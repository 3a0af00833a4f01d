"""How many tokens a model reads at most."""

from typing import Any

KEYS = ("n_ctx", "max_position_embeddings")


def context_of(model: Any) -> int | None:
    """Return the longest context of a model in tokens; None if it does not tell.

    RoBERTa and its relatives count positions from the one after that of padding, so the first rows of their table stand
    for no token.

    Examples:
        >>> from types import SimpleNamespace
        >>> context_of(SimpleNamespace(n_ctx=128))
        128
    """
    config = getattr(model, "config", None)
    values = (getattr(holder, key, None) for holder in (model, config) for key in KEYS)
    context = next((value for value in values if isinstance(value, int)), None)
    for name, module in model.named_modules() if context is not None and hasattr(model, "named_modules") else ():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None and len(module.weight) == context:
            return context - padding - 1
    return context
