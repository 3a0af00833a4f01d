"""What studies look at: models by URI, saved activations, and the probe set that they share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import settings
from data.probe import probe_hash
from dissimilarity.sources import Source
from launch.folder import resolved
from launch.machine import device_of
from launch.quiet import silence
from models import references
from models.references import Reference
from models.saved import holds_net

PROBE = {"sequences": 32, "length": 64, "split": "val"}


@dataclass(frozen=True)
class Subject:
    """One side of a comparison.

    Attributes:
        label: what to call it in tables and figures.
        source: the net, on the device of the study, or the path of saved activations.
        reference: the model with its tokenizer; None for saved activations.
        provenance: where it came from, with the hash of its file.
    """

    label: str
    source: Source
    reference: Reference | None
    provenance: dict[str, Any]


def load_subjects(uris: Sequence[str], runs_dir: str, device: str) -> list[Subject]:
    """The models and saved activations that URIs name.

    Raises:
        ValueError: the same one twice, or one that is missing or broken; says which and what to do.
    """
    twice = sorted({uri for uri in uris if list(uris).count(uri) > 1})
    if twice:
        raise ValueError(f"models: {', '.join(twice)} stands there twice; a model is compared with others")
    for uri in uris:
        if not is_saved(uri):
            references.resolve(uri, runs_dir)
    home, subjects = device_of(device), []
    for uri, label in zip(uris, short_labels(uris), strict=True):
        if is_saved(uri):
            subjects.append(Subject(label, uri, None, {"uri": uri, "sha256": _hashes(Path(uri))}))
        else:
            reference = references.load(uri, runs_dir)
            subjects.append(Subject(label, reference.model.to(home), reference, reference.provenance))
    return subjects


def is_saved(uri: str) -> bool:
    """Whether a URI names saved activations rather than a model."""
    if uri.endswith(".safetensors"):
        return not holds_net(Path(uri))
    return uri.endswith(".npy") or (Path(uri).is_dir() and any(Path(uri).glob("*.npy")))


def short_labels(uris: Sequence[str]) -> list[str]:
    """The last part of each URI where that tells them apart, the whole URI elsewhere."""
    short = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in uris]
    return [uri if short.count(name) > 1 else name for uri, name in zip(uris, short, strict=True)]


def probe_for(cfg: DictConfig, subjects: Sequence[Subject]) -> tuple[Tensor | None, dict[str, Any]]:
    """The probe set on which models are run, and what provenance.json says of it; None where no model is run.

    The text is that of the first model's run, or of `data=`, in the tokens of the first model that has a tokenizer;
    what `probe.*` leaves open is as in that run.

    Raises:
        ValueError: no run to take the data from, models of other tokenizers, sequences longer than a model reads.
    """
    models = [subject.reference for subject in subjects if subject.reference is not None]
    if not models:
        return None, {}
    run, config = _run_of(models)
    data = settings.instantiate(_data(cfg, models, run, config))
    silence()
    data.prepare_data()
    data.setup("fit")
    for model in models:
        references.check_tokenizer(model, data.tokenizer)
    theirs = {**PROBE, **config.get("probe", {})}
    chosen = {key: theirs[key] if cfg.probe[key] is None else cfg.probe[key] for key in PROBE}
    for model in models:
        most = getattr(model.model, "n_ctx", chosen["length"])
        if chosen["length"] > most:
            uri = model.provenance["uri"]
            raise ValueError(f"probe.length={chosen['length']}: {uri} reads at most {most}; type probe.length={most}")
    tokens = data.probe(**chosen)
    source = str(cfg.data.source._target_) if cfg.data else run
    return tokens, {**chosen, "sha256": probe_hash(tokens), "data": source, "data_fingerprint": data.fingerprint}


def measures_of(cfg: DictConfig) -> list[Any]:
    """The measures that the config asks for."""
    return [settings.instantiate(node) for node in cfg.measures.values()]


def _run_of(models: Sequence[Reference]) -> tuple[str, dict[str, Any]]:
    """The URI and the run's config of the first model that lies in the folder of a run."""
    for model in models:
        folder = Path(model.provenance["path"]).parent.parent
        if (folder / "config.yaml").is_file():
            return model.provenance["uri"], resolved(OmegaConf.load(folder / "config.yaml"))
    return "", {}


def _data(cfg: DictConfig, models: Sequence[Reference], run: str, config: dict[str, Any]) -> dict[str, Any]:
    """The config of the text."""
    if cfg.data:
        data = resolved(cfg.data)
        tokenizers = [model.provenance["tokenizer_path"] for model in models if model.tokenizer is not None]
        if tokenizers:
            data["tokenizer"] = {"_target_": "data.tokenizers.TokenizerFile", "path": tokenizers[0]}
        return data
    if "data" not in config:
        uris = ", ".join(model.provenance["uri"] for model in models)
        raise ValueError(
            f"none of {uris} lies in the folder of a run, which says on what text it was trained: type data=..."
        )
    foreign = [target for target in _targets(config["data"]) if not target.startswith("data.")]
    if foreign:
        raise ValueError(
            f"the config.yaml of {run} takes its text through {', '.join(foreign)}, which is not of this project and "
            "is not run unasked; name that data set yourself: data=..."
        )
    return config["data"]


def _targets(node: Any) -> list[str]:
    """Everything that a config would call."""
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    return [target for value in node for target in _targets(value)] if isinstance(node, list) else []


def _hashes(path: Path) -> Any:
    """The sha256 of a file, or of each .npy file of a folder by name."""
    if path.is_dir():
        return {file.name: _hashes(file) for file in sorted(path.glob("*.npy"))}
    if not path.is_file():
        raise ValueError(f"models: there is no file {path.absolute()}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
