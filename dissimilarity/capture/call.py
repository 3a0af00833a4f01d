"""How a model is called: on its inputs, with a mask of padding where its `forward` takes one."""

import inspect
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

MASKS = ("attention_mask", "src_key_padding_mask", "key_padding_mask")
"""Arguments by which a `forward` takes a mask: 1 at real positions, or, in PyTorch's own masks, True at padding."""


MISMATCHES = (
    "must have the same dtype",
    "shapes cannot be multiplied",
    "Expected tensor for argument",
    "Given input size",
    "Expected input",
    "expected input",
    "expected scalar type",
    "must match the size of tensor",
    "Given normalized_shape",
    "Given groups=",
)
"""Parts of torch's messages about inputs of another kind than a layer takes."""


def call(model: nn.Module, inputs: Tensor, mask: Bool[Tensor, "batch pos"] | None = None) -> Any:
    """Call a model as `model(inputs)`, with a mask of padding where its `forward` takes one.

    Numbers are read in the precision of the model's weights, as a trainer gives them to it.

    Args:
        model: any module. One that passes its keywords on (compiled, sharded, a LightningModule around a model) takes
            what the module inside it takes.
        inputs: inputs on the device of the model.
        mask: which positions are real; None where all are.

    Returns:
        the model's result.

    Raises:
        ValueError: if the inputs are outside of an embedding of the model, or of another kind than it takes.

    Examples:
        >>> class Masked(nn.Module):
        ...     def forward(self, tokens, attention_mask=None):
        ...         return attention_mask
        >>> tokens = torch.tensor([[5, 6, 0]])
        >>> call(Masked(), tokens, tokens != 0)
        tensor([[1, 1, 0]])
        >>> call(Masked(), tokens) is None
        True
    """
    if inputs.is_floating_point():
        inputs = inputs.to(_dtype_of(model) or inputs.dtype)
    name, required = mask_argument(model)
    keywords = {}
    if name is not None and (mask is not None or required):
        real = torch.ones(inputs.shape[:2], dtype=torch.bool) if mask is None else mask
        real = real.to(inputs.device)
        keywords[name] = real.long() if name == "attention_mask" else ~real
    if not inputs.is_floating_point() and hasattr(model, "_shift_right"):
        # T5's family demands what the decoder reads; others shift the text by themselves.
        keywords["decoder_input_ids"] = _shifted_right(inputs, model.config)
    try:
        if _takes_keywords_alone(model):
            return model(**{"pixel_values" if inputs.is_floating_point() else "input_ids": inputs}, **keywords)
        return model(inputs, **keywords)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        is_lookup = any(text in str(error) for text in ("out of range in self", "out of bounds"))
        if inputs.is_floating_point() or inputs.ndim != 2 or not is_lookup:
            if isinstance(error, (AssertionError, TypeError)) or any(text in str(error) for text in MISMATCHES):
                raise ValueError(
                    f"{type(model).__name__}.forward({_parameters(model)}) cannot read inputs "
                    f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)}"
                    f"{''.join(f', {name}=' for name in keywords)}: {error}; pass inputs that it takes"
                ) from error
            raise
        raise ValueError(
            f"{type(model).__name__} cannot read {inputs.shape[1]} tokens with ids up to {int(inputs.max())}: its "
            f"context or its vocabulary is smaller ({error}); pass shorter sequences, or tokens of its own tokenizer"
        ) from error


def mask_argument(model: nn.Module) -> tuple[str | None, bool]:
    """Return the argument of `forward` that takes a mask of padding, and whether it must be given; None without one."""
    parameters = inspect.signature(type(model).forward).parameters
    for name in MASKS:
        if name in parameters:
            return name, parameters[name].default is inspect.Parameter.empty
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        inside = (mask_argument(child) for child in model.children())
        return next((argument for argument in inside if argument[0] is not None), (None, False))
    return None, False


def _parameters(model: nn.Module) -> str:
    """Return the names of what `forward` takes, with = where it may be left out."""
    _, *parameters = inspect.signature(type(model).forward).parameters.values()
    empty = inspect.Parameter.empty
    return ", ".join(f"{entry.name}{'' if entry.default is empty else '='}" for entry in parameters)


def _shifted_right(tokens: Tensor, config: Any) -> Tensor:
    """Return what a decoder of T5's family reads: the text, one position later, behind a first token.

    The first token is that of the config, or, as T5 was trained, that of padding: newer configs name none.
    """
    named = (getattr(config, key, None) for key in ("decoder_start_token_id", "pad_token_id"))
    start = next((token for token in named if token is not None), 0)
    return torch.cat([torch.full_like(tokens[:, :1], start), tokens[:, :-1]], dim=1)


def _takes_keywords_alone(model: nn.Module) -> bool:
    """Return whether `forward` has the form `forward(self, **batch)`, as around models of transformers."""
    _, *parameters = inspect.signature(type(model).forward).parameters.values()
    return bool(parameters) and all(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the precision of a model's weights; None if none of them says in what it computes."""
    # quantized weights have 8 bits or less
    dtypes = (weight.dtype for weight in model.parameters() if weight.is_floating_point() and weight.itemsize > 1)
    return next(dtypes, None)
