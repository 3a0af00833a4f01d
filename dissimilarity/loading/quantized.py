"""Say which packages quantized weights need, from the config of a model, before transformers is imported."""

import re
import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from dissimilarity.loading.untrusted import shown

PACKAGES = {
    "aqlm": ("aqlm[cpu,gpu]",),
    "auto-round": ("auto-round",),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "gptq": ("optimum", "gptqmodel"),
    "torchao": ("torchao",),
}
"""What pip installs for the methods that transformers runs without a GPU too, by `quant_method`."""


def check_packages(config: Mapping[str, Any], uri: str) -> None:
    """Check that the packages are installed with which transformers reads quantized weights.

    Args:
        config: as a config.json has it.
        uri: the reference as the user wrote it, for messages.

    Raises:
        ValueError: one is not; says what to type. Or the config has no method where it says that there is one.

    Examples:
        >>> check_packages({"model_type": "llama"}, "hf:model")
        >>> check_packages({"quantization_config": {"quant_method": "gptq"}}, "hf:model")  # doctest: +SKIP
        Traceback (most recent call last):
        ValueError: reference 'hf:model' has weights quantized by gptq and needs optimum: pip install optimum
    """
    method = _method(config, uri)
    missing = [name for name in PACKAGES.get(method, ()) if find_spec(_module(name)) is None]
    if missing:
        raise ValueError(
            f"reference {uri!r} has weights quantized by {method} and needs {', '.join(missing)}: "
            f"pip install {shlex.join(missing)}"
        )


def with_quotes(message: str) -> str:
    """Return a message of transformers with quotes where a shell would read `pip install PACKAGE>=VERSION` otherwise.

    Examples:
        >>> with_quotes("type `pip install -U torchao>=0.15`, not `pip install 'torchao>=0.14'`")
        "type `pip install -U 'torchao>=0.15'`, not `pip install 'torchao>=0.14'`"
    """
    return re.sub(r"(pip install (?:-\S+ )*)([\w.-]+[<>\[][^\s`'\"]*)", r"\1'\2'", message)


def _method(config: Mapping[str, Any], uri: str) -> str:
    """Return the `quant_method` of a config, where transformers finds it; empty without one.

    Raises:
        ValueError: there is something else.
    """
    text = config.get("text_config")
    places = [config, text] if isinstance(text, dict) else [config]
    settings = next((found for place in places if (found := place.get("quantization_config")) is not None), None)
    if settings is None:
        return ""
    if isinstance(settings, dict):
        if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
            return "bitsandbytes"
        if isinstance(settings.get("quant_method"), str):
            return settings["quant_method"]
    found = shown(settings)
    if isinstance(settings, dict):
        found = f"quant_method {shown(settings['quant_method'])}" if "quant_method" in settings else "none in it"
    raise ValueError(
        f"reference {uri!r}: expected quantization_config in its config.json as a mapping with a quant_method, such as "
        f'{{"quant_method": "fp8"}}, found {found}'
    )


def _module(package: str) -> str:
    """Return what Python imports of a package."""
    return package.partition("[")[0].replace("-", "_")
