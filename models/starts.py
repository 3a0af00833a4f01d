"""The model that a training starts from: what its net is built from, and its weights put into a new one."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models import huggingface
from models.classifier import Classifier
from models.references import Reference


@dataclass(frozen=True)
class Start:
    """A model as the beginning of a training.

    Attributes:
        settings: what its net is built from, as a YAML of conf/model has it, with `d_vocab`.
        weights: by their names in that net.
        width, depth: of its stream, and its number of blocks.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    width: int
    depth: int


def start_of(reference: Reference, head: bool) -> Start:
    """What a run that starts from `reference` trains.

    Args:
        reference: the model.
        head: whether the run needs the logits of the next token, or only the stream.

    Raises:
        ValueError: it has no next token, as encoders and classifiers have none, or sizes that are not known.
    """
    uri, model = reference.provenance["uri"], reference.model
    if isinstance(model, Classifier):
        if head:
            raise ValueError(
                f"start={uri}: it is a classifier and makes no next token; give what it was trained from, or type "
                "task=classify"
            )
        model = model.net
    if isinstance(model, huggingface.HuggingFace):
        model = model.model
    elif reference.settings is not None:
        width, depth = reference.settings.get("d_model"), reference.settings.get("n_layers")
        if not isinstance(width, int) or not isinstance(depth, int):
            raise ValueError(f"start={uri}: expected d_model and n_layers in its settings, found {reference.settings}")
        return Start(reference.settings, model.state_dict(), width, depth)
    return _foreign(model, uri, head)


def put_in(weights: dict[str, Tensor], net: nn.Module) -> None:
    """Copies the weights of a start into a net, or into the body of a classifier, which has no unembedding.

    Raises:
        ValueError: they are not those of such a net.
    """
    body = net.net if isinstance(net, Classifier) else net
    own = body.state_dict()
    needed = {name: weight for name, weight in weights.items() if name in own}
    left = [name for name in weights if name not in own and not name.startswith("unembed.")]
    if len(needed) < len(own) or left:
        absent = [name for name in own if name not in weights]
        raise ValueError(f"start: its weights do not fit its net: {', '.join([*absent, *left][:4])}; report this")
    body.load_state_dict(needed)


def _foreign(model: Any, uri: str, head: bool) -> Start:
    """The same of a model of transformers; with a head it is another class than its base."""
    config = model.config
    if head and model is model.base_model:
        raise ValueError(
            f"start={uri}: a {config.model_type} as it was saved makes no next token, which task=lm trains on; type "
            "task=classify"
        )
    weights = huggingface.weights_of(model, head)
    return Start(huggingface.settings_of(model, head), weights, config.hidden_size, config.num_hidden_layers)
