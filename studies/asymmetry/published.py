"""Published toy models for the study `asymmetry`: one step of training each, and text in their tokens."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

import settings
from data.tokenizers import boundary_id
from launch.cli.quiet import silence
from launch.run.folder import resolved
from models import references
from models.build import build_net
from models.references import Reference
from studies.asymmetry.grid import divided
from studies.asymmetry.stitches import HeldOutText, ModelAtStep
from studies.common.inputs import short_labels


def load_published(
    cfg: DictConfig, uris: Sequence[str], device: Any, fit: int, held_out: int, length: int
) -> tuple[dict[str, list[ModelAtStep]], HeldOutText]:
    """Load published models, each at its only step, and the text of `data=` in their tokens.

    Models whose configs name the same seed are siblings: published models of one depth share initial weights and the
    order of their text.

    Raises:
        ValueError: A model is broken or has no tokenizer, or the tokenizers differ.
    """
    loaded = [references.load(uri) for uri in uris]
    text = _text(cfg, loaded, fit, held_out, length)
    labels = short_labels(uris)
    models = {
        label: [_model(label, reference, -1 - number, device)]
        for number, (label, reference) in enumerate(zip(labels, loaded, strict=True))
    }
    return models, text


def _model(label: str, reference: Reference, unique_seed: int, device: Any) -> ModelAtStep:
    """Return the model. Without a seed in its config it gets `unique_seed` and so has no siblings."""
    shape = reference.settings
    assert shape is not None
    seed = reference.provenance["seed"]
    seed = unique_seed if seed is None else seed
    build = {key: value for key, value in shape.items() if key != "d_vocab"}
    return ModelAtStep(
        run=label,
        family=shape["family"],
        width=shape["d_model"],
        depth=shape["n_layers"],
        init_seed=seed,
        data_seed=seed,
        step=0,
        last=True,
        net=reference.model.to(device),
        sha256=reference.provenance["sha256"],
        initial_net=lambda: build_net(build, shape["d_vocab"], 0).to(device).eval().requires_grad_(False),
    )


def _text(cfg: DictConfig, models: Sequence[Reference], fit: int, held_out: int, length: int) -> HeldOutText:
    """Return held-out text whose sequences begin with the token that begins documents.

    The models were trained on such sequences and have a high loss on others.
    """
    missing = [model.provenance["uri"] for model in models if model.tokenizer is None]
    if missing:
        raise ValueError(f"models: {', '.join(missing)} have no tokenizer; put tokenizer.json into their folders")
    config = resolved(cfg.data)
    path = models[0].provenance["tokenizer_path"]
    config["tokenizer"] = {"_target_": "data.tokenizers.TokenizerFile", "path": path}
    data = settings.instantiate(config)
    silence()
    data.prepare_data()
    data.setup("fit")
    for model in models:
        references.check_tokenizer(model, data.tokenizer)
    tokens = data.probe(fit + held_out, length, "val")
    tokens[:, 0] = boundary_id(data.tokenizer)
    return divided(tokens, held_out, data.bytes_per_token)
