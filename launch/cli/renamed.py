"""Former names of keys and values, and those of other programs, for messages that give the present name."""

from collections.abc import Collection
from typing import Any

KEYS: dict[str, tuple[str, ...]] = {
    "groups": ("reference_groups",),
    "start": ("init_from",),
    "callbacks.tracker.groups": ("callbacks.tracker.n_units",),
    "study.groups": ("study.n_units", "study.reference_groups"),
}
"""Former key -> present ones; which of them a command has depends on its other choices."""

ELSEWHERE = {
    **dict.fromkeys(("batch", "bs", "train_batch_size", "per_device_train_batch_size"), "batch_size"),
    **dict.fromkeys(("block_size", "context", "max_length", "max_seq_length", "seq_len"), "n_ctx"),
    **dict.fromkeys(("epochs", "max_epochs", "num_train_epochs", "steps", "max_iters", "num_steps"), "max_steps"),
    **dict.fromkeys(("hidden_size", "n_embd", "dim", "d_model"), "width"),
    **dict.fromkeys(("layers", "n_layer", "n_layers", "num_layers", "num_hidden_layers"), "depth"),
    **{"learning_rate": "lr", "device": "accelerator", "gpus": "devices", "wd": "weight_decay"},
}
"""Names that other programs give to keys."""

VALUES: dict[tuple[str, Any], str] = {
    ("study", "generalisation"): "generalization",
    ("study.case", "honest"): "seeds_only",
}
"""Key and its former value -> the present value."""


def renamed_key(key: str, keys: Collection[str]) -> str | None:
    """Return the present name of a former key.

    Args:
        key: dotted key as typed; `groups.good` is found by its parent `groups`.
        keys: the keys that the command has.

    Returns:
        The present name, or None if `key` is not a former key or the command does not have the present one.

    Examples:
        >>> renamed_key("groups.good", ["width", "reference_groups"])
        'reference_groups.good'
        >>> renamed_key("widht", ["width"]) is None
        True
    """
    for former, present in KEYS.items():
        if key == former or key.startswith(f"{former}."):
            name = next((name for name in present if name in keys), None)
            return None if name is None else name + key.removeprefix(former)
    return None


def renamed_value(key: str, value: Any) -> str | None:
    """Return the present name of a former value of `key`, or None.

    Examples:
        >>> renamed_value("study", "generalisation")
        'generalization'
    """
    return VALUES.get((key, value)) if isinstance(value, str) else None
