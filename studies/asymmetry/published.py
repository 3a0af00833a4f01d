"""Published toy models for the study `asymmetry`: one point of training each, and text in their tokens."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

import settings
from launch.cli.quiet import silence
from launch.run.folder import resolved
from models import references
from models.build import build_net
from models.references import Reference
from studies.asymmetry.stitches import Model, Text
from studies.asymmetry.study import divided
from studies.common.inputs import short_labels


def load_published(
    cfg: DictConfig, uris: Sequence[str], device: Any, fit: int, held_out: int, length: int
) -> tuple[dict[str, list[Model]], Text]:
    """The models by URI, each at the one point of its training that there is, and the text of `data=` in their tokens.

    Siblings are those whose configs name the same seed: published models of one depth share their starting weights and
    the order of their text.

    Raises:
        ValueError: one is broken, or has no tokenizer or another one.
    """
    found = [references.load(uri) for uri in uris]
    text = _text(cfg, found, fit, held_out, length)
    labels = short_labels(uris)
    models = {
        label: [_model(label, reference, -1 - number, device)]
        for number, (label, reference) in enumerate(zip(labels, found, strict=True))
    }
    return models, text


def _model(label: str, reference: Reference, otherwise: int, device: Any) -> Model:
    """A model that another one, whose seed is unknown too, is no sibling of."""
    own = reference.settings
    assert own is not None
    seed = reference.provenance["seed"]
    seed = otherwise if seed is None else seed
    build = {key: value for key, value in own.items() if key != "d_vocab"}
    return Model(
        run=label,
        family=own["family"],
        width=own["d_model"],
        depth=own["n_layers"],
        init_seed=seed,
        data_seed=seed,
        step=0,
        last=True,
        net=reference.model.to(device),
        sha256=reference.provenance["sha256"],
        start=lambda: build_net(build, own["d_vocab"], 0).to(device).eval().requires_grad_(False),
    )


def _text(cfg: DictConfig, models: Sequence[Reference], fit: int, held_out: int, length: int) -> Text:
    """Held-out text, in which each sequence begins as those did that the models were trained on: with the token that
    begins documents, without which they do badly."""
    from data.tokenizers import boundary_id

    missing = [model.provenance["uri"] for model in models if model.tokenizer is None]
    if missing:
        raise ValueError(f"models: {', '.join(missing)} have no tokenizer; put the tokenizer.json into the folder")
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
