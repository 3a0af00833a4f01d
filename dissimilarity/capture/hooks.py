"""Capture the activations of a model at its sites, without leaving a trace in the model or in its training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dissimilarity.capture.forward import first_argument, first_result, undisturbed
from dissimilarity.capture.points import ModulePoint
from dissimilarity.capture.sharding import is_sharded, reshard, whole
from dissimilarity.capture.site_names import describe
from dissimilarity.capture.sites import locate, resolve


class _Complete(BaseException):
    """End a forward pass once every site has been seen; no Exception, so that a model does not catch it."""


@contextmanager
def capture(model: nn.Module, sites: str | Sequence[str]) -> Iterator[dict[str, Float[Tensor, "batch pos d"]]]:
    """Yield a dict that holds the activations at the sites after each `model(...)` inside the block.

    The model runs in eval mode, without gradients, uncompiled (hooks set after a compile would never fire), and only as
    far as the deepest site: `model(...)` then returns None. An enclosing autocast applies inside. If a module runs
    several times per pass, its first result counts. A model with forward hooks set by others, or sharded among
    processes, runs to its end, because those rely on it. DTensors are gathered: each process has all of an activation.

    On exit, also after an error, everything is restored: the training flag of every module, hooks, `forward`, the
    compiled code, the random number generators, gradients. The captured tensors are copies: a model may later overwrite
    in place what it passed to a hook (`x += ...`), and a view would keep the whole tensor behind it alive. Compared
    with the block that computed it, a copy costs next to nothing.

    Args:
        model: any module.
        sites: names or globs, as for `resolve`.

    Yields:
        site -> activation of the last pass.

    Raises:
        ValueError: the model does not have a site.
        RuntimeError: a site was not reached.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with capture(model, ["0", "1"]) as acts:
        ...     _ = model(torch.zeros(3, 4))
        >>> {site: tuple(act.shape) for site, act in acts.items()}
        {'0': (3, 8), '1': (3, 8)}
    """
    points = locate(model, resolve(model, sites))
    acts: dict[str, Tensor] = {}
    recorder = _Recorder(model, points, acts)
    with undisturbed(model), recorder.attached():
        yield acts
    missing = [site for site in points if site not in acts]
    if missing:
        raise RuntimeError(_not_reached(missing, recorder.passes))


class _Recorder:
    """Hooks on the points of one model that fill one dict."""

    def __init__(self, model: nn.Module, points: dict[str, ModulePoint], acts: dict[str, Tensor]):
        self.model, self.points, self.acts = model, points, acts
        self.may_stop = not (
            is_sharded(model)
            or any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
            or any(point.module == "" for point in points.values())
        )
        self.in_pass = False
        self.passes = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Set the hooks, and a `forward` that stops where the recorder stops it, and remove both afterwards."""
        instance_forward = vars(self.model).get("forward")
        handles = []
        try:
            for site, point in self.points.items():
                module = self.model.get_submodule(point.module)
                if point.side == "input":
                    handles.append(module.register_forward_pre_hook(self._input_hook(site), with_kwargs=True))
                else:
                    handles.append(module.register_forward_hook(self._output_hook(site)))
            vars(self.model)["forward"] = self._stopping(self.model.forward)
            yield
        finally:
            for handle in handles:
                handle.remove()
            reshard(self.model)
            vars(self.model).pop("forward", None)
            if instance_forward is not None:
                vars(self.model)["forward"] = instance_forward

    def _stopping(self, forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.acts.clear()
            self.passes += 1
            self.in_pass = True
            try:
                return forward(*args, **kwargs)
            except _Complete:
                return None
            finally:
                self.in_pass = False

        return run

    def _input_hook(self, site: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._take(site, first_argument(args, kwargs))

        return hook

    def _output_hook(self, site: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            self._take(site, output)

        return hook

    def _take(self, site: str, value: Any) -> None:
        value = first_result(value)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"site {site!r} returns a {type(value).__name__}, not a tensor; choose a module inside or after it"
            )
        if self.in_pass and site in self.acts:
            return
        self.acts[site] = whole(value.detach()).clone()
        if self.in_pass and self.may_stop and len(self.acts) == len(self.points):
            raise _Complete


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none.

    Examples:
        >>> device_of(nn.Linear(2, 2))
        device(type='cpu')
    """
    return next((weight.device for weight in model.parameters() if not weight.is_meta), torch.device("cpu"))


def _not_reached(missing: list[str], passes: int) -> str:
    """Return the message for sites that did not fire, with possible reasons."""
    if not passes:
        return f"nothing captured at {describe(missing)}: call `model(tokens)` inside the `with capture(...)` block"
    return (
        f"the forward pass did not reach {describe(missing)}: the module exists but was not called as a module."
        " Its owner may call its `forward` or use its weights directly, skip it for this input, or be scripted or"
        " exported code, which runs no hooks; choose another site"
    )
