"""The model that a training begins from: the settings of its net, and its weights loaded into a new one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from models import huggingface
from models.classifier import Classifier

if TYPE_CHECKING:
    from models.references import Reference


@dataclass(frozen=True)
class InitialModel:
    """A model that a training begins from.

    Attributes:
        settings: The settings of its net, in the form of a YAML of conf/model, with `d_vocab`.
        weights: The weights by their names in that net.
        width: Width of the residual stream.
        depth: Number of blocks.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    width: int
    depth: int


def initial_model(reference: "Reference", head: bool) -> InitialModel:
    """Return the net and weights of a run that begins from `reference`.

    Args:
        reference: The model.
        head: Whether the run needs next-token logits rather than the residual stream alone.

    Raises:
        ValueError: If the model has no next-token logits, as encoders and classifiers have none, or its sizes are
            unknown.
    """
    uri, model = reference.provenance["uri"], reference.model
    if isinstance(model, Classifier):
        if head:
            raise ValueError(
                f"init_from={uri}: this is a classifier without next-token logits; name the model that it was trained "
                "from, or type task=classify"
            )
        model = model.net
    if isinstance(model, huggingface.HuggingFace):
        model = model.model
    elif reference.settings is not None:
        width, depth = reference.settings.get("d_model"), reference.settings.get("n_layers")
        if not isinstance(width, int) or not isinstance(depth, int):
            raise ValueError(
                f"init_from={uri}: expected d_model and n_layers in its settings, found {reference.settings}"
            )
        return InitialModel(reference.settings, model.state_dict(), width, depth)
    return _initial_transformers_model(model, uri, head)


def load_into(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load initial weights into a net, or into the body of a classifier, which has no unembedding.

    Raises:
        ValueError: If the weights do not belong to such a net.
    """
    body = net.net if isinstance(net, Classifier) else net
    names = set(body.state_dict())
    missing = [name for name in body.state_dict() if name not in weights]
    unexpected = [name for name in weights if name not in names and not name.startswith("unembed.")]
    if missing or unexpected:
        raise ValueError(
            f"init_from: the weights do not fit the net: {', '.join([*missing, *unexpected][:4])}; please report this"
        )
    body.load_state_dict({name: weight for name, weight in weights.items() if name in names})


def _initial_transformers_model(model: Any, uri: str, head: bool) -> InitialModel:
    """Return the same for a model of transformers, whose class with a head differs from its base class."""
    config = model.config
    if head and model is model.base_model:
        raise ValueError(
            f"init_from={uri}: this {config.model_type} was saved without next-token logits, which task=lm trains; "
            "type task=classify"
        )
    weights = huggingface.weights_of(model, head)
    return InitialModel(huggingface.settings_of(model, head), weights, config.hidden_size, config.num_hidden_layers)
