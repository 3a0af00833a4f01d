"""The references of a model in training: its own earlier states, and other models."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any, TypeGuard

import torch
from torch import nn

from dissimilarity.capture.random_state import restored_random_state
from dissimilarity.probe.arguments import shown
from dissimilarity.tables.names import UNTRAINED, name_of, normal_form

OWN = ("init", "previous")
"""The model's own states: at step 0, and a fixed number of steps before a tick."""

SEED = 987_654_321
"""Seed of those weights where layers draw them."""

HOW_TO_DRAW = (
    "give the model a method untrained() that returns it with other initial weights, or pass such a module: "
    "references={'untrained': module}"
)

Source = str | nn.Module


def is_own(source: Source) -> TypeGuard[str]:
    """Return whether a reference is a state of the model in training, whatever its label says."""
    return isinstance(source, str) and source in OWN


def named_references(references: str | Sequence[str] | Mapping[str, Source]) -> dict[str, Source]:
    """Return references by label: the last part of a URI if that is unique, else the whole URI.

    Raises:
        ValueError: a module has no label, or a reference is neither a URI nor a module, or there twice.

    Examples:
        >>> list(named_references(["init", "runs/a", "x/b", "y/b"]))
        ['init', 'a', 'x/b', 'y/b']
    """
    if isinstance(references, Mapping):
        for label in references:
            if not isinstance(label, str) or not label:
                raise ValueError(f"references: expected a label such as 'teacher' for each, found {shown(label)}")
        sources = {label: _checked(source) for label, source in references.items()}
        _check_distinct([source for source in sources.values() if not is_own(source)])
        return sources
    if isinstance(references, nn.Module):
        raise ValueError(f"references: a {type(references).__name__} has no label; pass {{'teacher': module}}")
    is_list = isinstance(references, Sequence) and not isinstance(references, str)
    uris: list[Any] = list(references) if is_list else [references]
    for uri in uris:
        if not isinstance(_checked(uri), str):
            raise ValueError(
                f"references: a {type(uri).__name__} has no label; pass {{'init': 'init', 'teacher': module}}"
            )
    _check_distinct(uris)
    names = [name_of(uri) for uri in uris]
    return {
        uri if names.count(name) > 1 or (name in OWN and uri != name) else name: uri
        for uri, name in zip(uris, names, strict=True)
    }


def as_module(source: Source, load: Callable[[str], nn.Module] | None, model: nn.Module) -> nn.Module:
    """Return a reference that is not one of the model's own states as a module.

    Args:
        source: a module, a URI or ``untrained``.
        load: turns a URI into a module.
        model: the model in training.

    Raises:
        ValueError: ``source`` is a URI and there is no ``load``.
    """
    if isinstance(source, nn.Module):
        return source
    if source == UNTRAINED:
        return untrained(model)
    if source == "base" and load is None:
        raise ValueError(
            "reference 'base': only the callback for the Hugging Face Trainer knows the base of a model; pass "
            "{'base': WithoutAdapters(model)} of dissimilarity.huggingface for a model with adapters, else init"
        )
    if load is None:
        raise ValueError(
            f"reference {source!r}: expected {', '.join(OWN)}, {UNTRAINED} or a module; pass load= to turn URIs into "
            "modules"
        )
    return load(source)


def untrained(model: nn.Module) -> nn.Module:
    """Return a model with other initial weights, in eval mode, the same ones whenever it is called.

    It is what ``model.untrained()`` returns. A model without that method is copied, and each of its layers draws its
    weights again (``reset_parameters``, as those of torch have), which is possible if no parameter is left over. The
    weights of the model in training do not matter. Buffers that no layer resets are taken for constants, such as a
    table of positions: a model with others (a codebook) needs the method.

    Raises:
        ValueError: the model cannot be copied, a layer cannot draw its weights, or no layer draws some parameters.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> fresh = untrained(model)
        >>> bool((fresh[0].weight == model[0].weight).any())
        False
        >>> bool((fresh[0].weight == untrained(model)[0].weight).all())
        True
    """
    with restored_random_state():
        torch.default_generator.manual_seed(SEED)
        make = getattr(model, UNTRAINED, None)
        if callable(make):
            fresh = make()
            if not isinstance(fresh, nn.Module):
                raise ValueError(
                    f"expected {type(model).__name__}.untrained() to return a module, found {shown(fresh)}"
                )
            return fresh.eval().requires_grad_(False)
        try:
            fresh = deepcopy(model).cpu()
        except Exception as error:  # whatever its parts raise
            raise ValueError(
                f"reference {UNTRAINED!r}: {type(model).__name__} cannot be copied ({error}); {HOW_TO_DRAW}"
            ) from error
        _draw(fresh)
    left = [name for name, parameter in fresh.named_parameters() if not _is_drawn(parameter)]
    if left:
        names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        raise ValueError(
            f"reference {UNTRAINED!r}: no reset_parameters() without arguments draws {names}; {HOW_TO_DRAW}"
        )
    return fresh.eval().requires_grad_(False)


def _draw(model: nn.Module) -> None:
    """Let each module draw its parameters; NaN stays in those that none draws.

    Raises:
        ValueError: a module cannot.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if _can_be_nan(parameter):
                parameter.fill_(torch.nan)
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset) and not _needs_arguments(reset):
            try:
                reset()
            except Exception as error:  # whatever it raises, also for weights that are no floating-point numbers
                raise ValueError(
                    f"reference {UNTRAINED!r}: reset_parameters() of {name or type(module).__name__} failed ({error}); "
                    f"{HOW_TO_DRAW}"
                ) from error


def _is_drawn(parameter: nn.Parameter) -> bool:
    return _can_be_nan(parameter) and not bool(parameter.isnan().any())


def _can_be_nan(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _needs_arguments(function: Callable[..., Any]) -> bool:
    try:
        signature(function).bind()
    except TypeError:
        return True
    return False


def _check_distinct(sources: Sequence[Source]) -> None:
    """Check that no model is there twice, where its weights would count twice."""
    before: dict[object, Source] = {}
    for source in sources:
        key = source if isinstance(source, nn.Module) else normal_form(source)
        if key in before:
            first, second = (shown(uri).strip("'") for uri in (before[key], source))
            also = f", also as {first}" if first != second else ""
            raise ValueError(f"references: {second} is there twice{also}; leave one out")
        before[key] = source


def _checked(source: Source) -> Source:
    if not isinstance(source, (str, nn.Module)) or source == "":
        raise ValueError(f"references: expected {', '.join(OWN)}, {UNTRAINED}, URIs or modules, found {shown(source)}")
    return source
