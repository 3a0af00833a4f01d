"""Build a Hugging Face transformers model from its config alone, as a net that can be trained further.

Dropout and everything else in the config applies during training. No code outside transformers is run.
"""

import json
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.loading.config import LAYERS, check_config
from dissimilarity.loading.context import context_of
from dissimilarity.loading.pretrained import body_class

# Keys that a net does not need, or that name code, which is never run.
LEFT_OUT = ("architectures", "auto_map", "id2label", "label2id", "_name_or_path", "transformers_version", "dtype")


class HuggingFace(nn.Module):
    """An encoder or decoder of transformers: tokens (batch, pos) -> logits (batch, pos, d_vocab), if it has a head.

    Args:
        config: the content of the model's config.json, with `model_type`.
        head: whether the model has a head for the next token. Without one, only its `features` are useful.
        d_vocab: size of the vocabulary, which the config contains too.

    Raises:
        ValueError: a config that this version of transformers does not support.

    Examples:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11}
        >>> net = HuggingFace(config=config, head=True, d_vocab=11)
        >>> tuple(net(torch.zeros(2, 5, dtype=torch.long)).shape), net.d_model
        ((2, 5, 11), 8)
    """

    def __init__(self, *, config: dict[str, Any], head: bool, d_vocab: int) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModelForCausalLM

        check_config(config, LAYERS)
        options = {key: value for key, value in config.items() if key != "model_type"}
        model_config = AutoConfig.for_model(config["model_type"], **options)
        is_encoder = not model_config.is_encoder_decoder
        kind: Any = AutoModelForCausalLM if head else body_class(model_config, is_encoder)
        self.model: Any = kind.from_config(model_config, trust_remote_code=False, dtype=torch.float32)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # BERT's pooler comes after every site
        self.d_model: int = model_config.hidden_size
        self.d_vocab, self.n_ctx = d_vocab, context_of(self.model)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits of the next token at every position; none attends to one where the mask is 0."""
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        return self.model(input_ids=tokens, use_cache=False, **mask).logits

    def features(
        self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the stream after the final norm, where no position attends to one that is not `real`."""
        return self.model.base_model(input_ids=tokens, attention_mask=real.long()).last_hidden_state


def settings_of(model: Any, head: bool) -> dict[str, Any]:
    """Return the settings that build a transformers model as `HuggingFace`, in the form of a YAML of conf/model."""
    config = json.loads(model.config.to_json_string(use_diff=True))
    relevant = {key: value for key, value in config.items() if key not in LEFT_OUT}
    return {
        "family": "pretrained",
        "_target_": "models.huggingface.HuggingFace",
        "_convert_": "all",
        "config": {**relevant, "model_type": model.config.model_type},
        "head": head,
        "d_vocab": model.config.vocab_size,
    }


def weights_of(model: Any, head: bool) -> dict[str, Tensor]:
    """Return the weights of a transformers model under their names in `HuggingFace`."""
    state = (model if head else model.base_model).state_dict()
    return {f"model.{name}": weight for name, weight in state.items() if head or not name.startswith("pooler.")}
