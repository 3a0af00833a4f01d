"""A model of Hugging Face transformers as a net of ours, built from its config alone, so that it can be trained on.

Dropout and all else that the config says holds while it trains. No code but that of transformers is run.
"""

import json
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.loading.config import LAYERS, check_config

# Of no use to a body, or of code that is not to be run.
LEFT_OUT = ("architectures", "auto_map", "id2label", "label2id", "_name_or_path", "transformers_version", "dtype")


class HuggingFace(nn.Module):
    """An encoder or decoder of transformers: tokens (batch, pos) -> logits (batch, pos, d_vocab), if it has a head.

    Args:
        config: of the model, as its config.json has it, with `model_type`.
        head: whether it makes logits of the next token; without, only its `features` are of use.
        d_vocab: size of its vocabulary, which the config has as well.

    Raises:
        ValueError: a config that this version of transformers does not know.
    """

    def __init__(self, *, config: dict[str, Any], head: bool, d_vocab: int) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        check_config(config, LAYERS)
        rest = {key: value for key, value in config.items() if key != "model_type"}
        kind: Any = AutoModelForCausalLM if head else AutoModel
        known = AutoConfig.for_model(config["model_type"], **rest)
        self.model: Any = kind.from_config(known, trust_remote_code=False, dtype=torch.float32)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # BERT's: after all that is read here
        self.d_model: int = known.hidden_size
        self.d_vocab, self.n_ctx = d_vocab, getattr(known, "max_position_embeddings", None)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the next token at every position."""
        return self.model(input_ids=tokens, use_cache=False).logits

    def features(
        self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the last norm; no position sees one that is not `real`."""
        return self.model.base_model(input_ids=tokens, attention_mask=real.long()).last_hidden_state


def settings_of(model: Any, head: bool) -> dict[str, Any]:
    """What a model of transformers is built from as a net of ours, as a YAML of conf/model has it."""
    config = json.loads(model.config.to_json_string(use_diff=True))
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT}
    return {
        "family": "pretrained",
        "_target_": "models.huggingface.HuggingFace",
        "_convert_": "all",
        "config": {**kept, "model_type": model.config.model_type},
        "head": head,
        "d_vocab": model.config.vocab_size,
    }


def weights_of(model: Any, head: bool) -> dict[str, Tensor]:
    """The weights of a model of transformers by their names in a net of ours."""
    state = (model if head else model.base_model).state_dict()
    return {f"model.{name}": weight for name, weight in state.items() if head or not name.startswith("pooler.")}
