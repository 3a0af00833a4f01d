"""Capture: the activations of a model at chosen sites, taken without a trace left in the model or in its training.

with capture(model, "blocks.*.resid_post") as acts:
    model(tokens)
acts["blocks.0.resid_post"]  # (batch, pos, d_model)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dissimilarity.capture.architectures import ModulePoint
from dissimilarity.capture.sites import describe, locate, resolve


class _Complete(BaseException):
    """Ends a forward pass once every wanted site has been seen; no Exception, lest a model's `except` swallow it."""


@contextmanager
def capture(model: nn.Module, sites: str | Sequence[str]) -> Iterator[dict[str, Float[Tensor, "batch pos d"]]]:
    """Give a dict that after each `model(...)` inside the block holds the activations of that pass at the sites.

    `sites` are names or globs, read by `resolve`.

    The model runs in eval mode, without gradients, uncompiled (hooks set after a compile would never fire), and only as
    far as the deepest site: `model(...)` then returns None. Precision is the caller's: an enclosing autocast holds
    inside. A module that runs several times in a pass counts with its first time. A model on which others have set
    forward hooks, or that FSDP has sharded, runs to its end, since those count on it.

    On exit, also by an error, everything is as it was: the training flag of every module, hooks, `forward`, the
    compiled code, the random number generators, gradients. The captured tensors are copies: a model may go on to
    overwrite in place what it handed to a hook (`x += ...`), and a view would keep the whole tensor under it alive;
    against the block that made it a copy costs next to nothing.

    Raises ValueError for sites that the model does not have, and RuntimeError, naming them, for sites that were not
    reached.
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
    """Hooks on the points of one model, filling one dict."""

    def __init__(self, model: nn.Module, points: dict[str, ModulePoint], acts: dict[str, Tensor]):
        self.model, self.points, self.acts = model, points, acts
        self.may_stop = not any(
            module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_fsdp_wrapped_module")
            for module in model.modules()
        ) and not any(point.module == "" for point in points.values())
        self.in_pass = False
        self.passes = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Set the hooks, and a `forward` that ends where the recorder ends it, and take both away again."""
        own_forward = vars(self.model).get("forward")
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
            vars(self.model).pop("forward", None)
            if own_forward is not None:
                vars(self.model)["forward"] = own_forward

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
            self._take(site, args[0] if args else next(iter(kwargs.values()), None))

        return hook

    def _output_hook(self, site: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            self._take(site, output)

        return hook

    def _take(self, site: str, value: Any) -> None:
        value = first_result(value)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"site {site!r} gives a {type(value).__name__}, not a tensor; choose a module inside or after it"
            )
        if self.in_pass and site in self.acts:
            return
        self.acts[site] = value.detach().clone()
        if self.in_pass and self.may_stop and len(self.acts) == len(self.points):
            raise _Complete


def first_result(value: Any) -> Any:
    """The first of several results of a module: of a tuple, a list, or what Hugging Face's models return."""
    several = isinstance(value, (tuple, list)) or (hasattr(value, "to_tuple") and not isinstance(value, Tensor))
    return value[0] if several else value


@contextmanager
def undisturbed(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Run the model as for evaluation, and leave it, the random number generators and autocast's cache as they were.

    `gradients` says whether they are recorded inside.

    The flags are set on each module, not by `model.eval()`: a module may override `train`, and its flag may differ from
    its parent's.
    """
    flags = [(module, module.training) for module in model.modules()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = sorted({device.index for device in devices if device.type == "cuda" and device.index is not None})
    try:
        for module, _ in flags:
            module.training = False
        with (
            torch.random.fork_rng(devices=cuda),
            torch.compiler.set_stance("force_eager"),
            torch.inference_mode(False),
            torch.set_grad_enabled(gradients),
        ):
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        # Up to torch 2.9 a weight cast under no_grad stays in autocast's cache, cut off from its gradient: the training
        # step in the same autocast would leave that weight as it is.
        torch.clear_autocast_cache()


def _not_reached(missing: list[str], passes: int) -> str:
    """Say which sites did not fire and what may be the reason."""
    if not passes:
        return f"nothing captured at {describe(missing)}: call `model(tokens)` inside the `with capture(...)` block"
    return (
        f"the forward pass did not reach {describe(missing)}: the module exists but was not called as a module."
        " Its owner may call its `forward` or use its weights directly, skip it for this input, or be scripted or"
        " exported code that runs no hooks; choose another site"
    )
