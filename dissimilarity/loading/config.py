"""Check the config of a model of Hugging Face transformers before anything is built from it."""

from typing import Any

from dissimilarity.loading.untrusted import shown

LAYERS = 512
"""Layers that settings may ask for though the file holds fewer tensors: some configs count what is not there."""
ELSEWHERE = ("use_pretrained_backbone", "backbone")
"""Keys of a config by which transformers would load another model."""


def check_config(config: dict[str, Any], layers: int) -> None:
    """Refuse a config that asks transformers for more than the model which it describes.

    Args:
        config: as a config.json has it.
        layers: the most that it may ask for.

    Raises:
        ValueError: code or weights from elsewhere, or more layers.
    """
    stack: list[Any] = [config]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        if not isinstance(node, dict):
            continue
        stack += node.values()
        for key, value in node.items():
            if (key in ELSEWHERE and value) or ("implementation" in str(key) and "/" in str(value)):
                raise ValueError(f"its config says {key}={shown(value)}, which would be fetched from elsewhere")
            if "layer" in str(key) and type(value) is int and value > max(layers, LAYERS):
                raise ValueError(f"its config says {key}={value}, and its weights are not that many")
