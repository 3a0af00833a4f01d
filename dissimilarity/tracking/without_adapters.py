"""A model of peft without its adapters: the base that they were added to."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

PROMPTS = ("prompt_encoder", "adaption_prompt", "adaption_gate")
"""Parts of names of learned prompts, which belong to no layer."""

CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""How names of ``init_lora_weights`` begin with which peft takes the start of the adapters out of the weights below."""


class WithoutAdapters(nn.Module):
    """A model with its adapters off, which shares all weights with it and has the same sites.

    Adapters are those of peft, in a ``PeftModel`` or in the layers of any other model (``inject_adapter_in_model``,
    ``add_adapter`` and ``load_adapter`` of transformers).

    Args:
        model: the model.
        is_continued: whether it has trained, so that weights beside the adapters are no longer those of the base.
    """

    def __init__(self, model: nn.Module, is_continued: bool = False) -> None:
        super().__init__()
        # named as torch.compile names what it wraps, so that site paths leave it out
        self._orig_mod, self.is_continued = model, is_continued

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model that the adapters were added to, and leave what trains as it is.

        Raises:
            ValueError: its own weights have trained, or peft changed them when it added the adapters.
        """
        if changes := _changes_base(self._orig_mod):
            raise ValueError(
                f"init_lora_weights={changes!r} has changed the weights below the adapters, which are no longer those "
                "of the base; pass the base as hf:FOLDER"
            )
        if self.is_continued and (trained := _trained_beside_adapters(self._orig_mod)):
            raise ValueError(
                f"weights beside the adapters train too ({trained[0]}), and a continued training no longer has those "
                "of the base; pass the base as hf:FOLDER"
            )
        with _adapters_off(self._orig_mod):
            return self._orig_mod(*args, **kwargs)


def has_adapters(model: nn.Module) -> bool:
    """Return whether a model has adapters of peft.

    Examples:
        >>> has_adapters(nn.Linear(2, 2))
        False
    """
    return bool(_peft_models(model) or _layers(model))


@contextmanager
def _adapters_off(model: nn.Module) -> Iterator[None]:
    """Turn adapters off for a while."""
    # peft makes all weights of the active adapters trainable when it turns them on again
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    were_on = [(layer, not layer.disable_adapters) for layer in _layers(model)]
    try:
        with ExitStack() as stack:
            for peft_model in _peft_models(model):
                stack.enter_context(peft_model.disable_adapter())
            for layer, _ in were_on:
                layer.enable_adapters(False)
            yield
    finally:
        for layer, was_on in were_on:
            layer.enable_adapters(was_on)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _peft_models(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "disable_adapter")]


def _layers(model: nn.Module) -> list[Any]:
    """Return the layers with adapters; models of transformers have a method of the same name."""
    return [module for module in model.modules() if isinstance(getattr(module, "disable_adapters", None), bool)]


def _changes_base(model: nn.Module) -> str:
    """Return how adapters were initialized if that changes the weights below them; empty if it does not."""
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        for config in configs.values() if isinstance(configs, dict) else ():
            start = getattr(config, "init_lora_weights", None)
            if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
                return start
    return ""


def _trained_beside_adapters(model: nn.Module) -> list[str]:
    """Return the names of the trained weights that belong to no adapter, such as biases."""
    own = {*PROMPTS, *(part for layer in _layers(model) for part in layer.adapter_layer_names)}
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [name for name in names if own.isdisjoint(name.split("."))]
