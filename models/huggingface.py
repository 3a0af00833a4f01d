"""A model of Hugging Face transformers as a net of this project, built from its config alone and trainable.

Training uses dropout and all other settings of the config. No code except that of transformers is run.
"""

import json
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.loading.config import LAYERS, check_config

# Useless for a body, or about code that must not be run.
LEFT_OUT = ("architectures", "auto_map", "id2label", "label2id", "_name_or_path", "transformers_version", "dtype")


class HuggingFace(nn.Module):
    """An encoder or decoder of transformers; with a head, it maps tokens (batch, pos) to logits (batch, pos, d_vocab).

    Args:
        config: The content of its config.json, with `model_type`.
        head: Whether it computes next-token logits; without a head, only its `features` are usable.
        d_vocab: Size of its vocabulary, as in the config.

    Raises:
        ValueError: If this version of transformers does not know the config.
    """

    def __init__(self, *, config: dict[str, Any], head: bool, d_vocab: int) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        check_config(config, LAYERS)
        arguments = {key: value for key, value in config.items() if key != "model_type"}
        kind: Any = AutoModelForCausalLM if head else AutoModel
        model_config = AutoConfig.for_model(config["model_type"], **arguments)
        self.model: Any = kind.from_config(model_config, trust_remote_code=False, dtype=torch.float32)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # that of BERT comes after everything that is read here
        self.d_model: int = model_config.hidden_size
        self.d_vocab, self.n_ctx = d_vocab, getattr(model_config, "max_position_embeddings", None)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return next-token logits at every position."""
        return self.model(input_ids=tokens, use_cache=False).logits

    def features(
        self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the residual stream after the last norm; padding is masked."""
        return self.model.base_model(input_ids=tokens, attention_mask=real.long()).last_hidden_state


def settings_of(model: Any, head: bool) -> dict[str, Any]:
    """Return the settings of a model of transformers as a net of this project, in the form of a YAML of conf/model."""
    config = json.loads(model.config.to_json_string(use_diff=True))
    reduced = {key: value for key, value in config.items() if key not in LEFT_OUT}
    return {
        "family": "pretrained",
        "_target_": "models.huggingface.HuggingFace",
        "_convert_": "all",
        "config": {**reduced, "model_type": model.config.model_type},
        "head": head,
        "d_vocab": model.config.vocab_size,
    }


def weights_of(model: Any, head: bool) -> dict[str, Tensor]:
    """Return the weights of a model of transformers by their names in `HuggingFace`."""
    state = (model if head else model.base_model).state_dict()
    return {f"model.{name}": weight for name, weight in state.items() if head or not name.startswith("pooler.")}
