"""What studies look at: models by URI, saved activations, and the probe set that they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tokenizers import Tokenizer
from torch import Tensor, nn

import settings
from data.probe import probe_hash
from data.rebuilt import rebuilt
from dissimilarity.comparison.saved import Source
from dissimilarity.probe.alignment import Alignment
from dissimilarity.tables.files import sha256_of
from launch.cli.quiet import silence
from launch.machine import device_of
from launch.run.alignment import ProbeText, context_of
from launch.run.folder import resolved
from models import references
from models.references import Reference
from models.saved import holds_net
from studies.common.runs import config_of, entry

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
    check_uris(uris, runs_dir)
    home = device_of(device)
    return [_subject(uri, label, runs_dir, home) for uri, label in zip(uris, short_labels(uris), strict=True)]


def look_at(uris: Sequence[str], runs_dir: str, tell: Callable[[str], object]) -> list[Subject]:
    """As `load_subjects`, one model in memory at a time: the nets are left without their weights, on `meta`."""
    labels = short_labels(uris)
    check_uris(uris, runs_dir)
    subjects = []
    for uri, label in zip(uris, labels, strict=True):
        tell(f"{label}: looking at it")
        subjects.append(_subject(uri, label, runs_dir, torch.device("meta")))
    return subjects


def loader(subject: Subject, runs_dir: str, home: torch.device) -> Source | Callable[[], nn.Module]:
    """What loads a model again that `look_at` looked at; of saved activations their path."""
    if subject.reference is None:
        return subject.source
    return lambda: references.load(subject.provenance["uri"], runs_dir).model.to(home)


def check_uris(uris: Sequence[str], runs_dir: str) -> None:
    """Raises ValueError where a URI stands twice or names nothing."""
    twice = sorted({uri for uri in uris if list(uris).count(uri) > 1})
    if twice:
        raise ValueError(f"models: {', '.join(twice)} stands there twice; a model is compared with others")
    for uri in uris:
        if not is_saved(uri):
            references.resolve(uri, runs_dir)


def is_saved(uri: str) -> bool:
    """Whether a URI names saved activations rather than a model."""
    if uri.endswith(".safetensors"):
        return not holds_net(Path(uri))
    return uri.endswith(".npy") or (Path(uri).is_dir() and any(Path(uri).glob("*.npy")))


def short_labels(uris: Sequence[str]) -> list[str]:
    """The last part of each URI where that tells them apart, the whole URI elsewhere."""
    short = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in uris]
    return [uri if short.count(name) > 1 else name for uri, name in zip(uris, short, strict=True)]


@dataclass(frozen=True)
class Probe:
    """The probe set of a study, as each of its models reads it.

    Attributes:
        tokens: the sequences; None where no model is run.
        mask: which of their positions are text, where the models are classifiers, whose texts are padded.
        tokenizer: whose tokens they are.
        text: the text behind them, for the models that read other tokens.
        alike: labels of the models that read these.
        notes: what provenance.json says of it.
    """

    tokens: Tensor | None
    mask: Tensor | None
    tokenizer: Tokenizer | None
    text: ProbeText | None
    alike: frozenset[str]
    notes: dict[str, Any]

    def between(self, a: Subject, b: Subject) -> Tensor | Alignment | None:
        """What two subjects are compared on: the tokens, or where both read the same text in tokens of their own.

        Raises:
            ValueError: tokens without a common boundary; saved activations and a model of other tokens.
        """
        models = [subject for subject in (a, b) if subject.reference is not None]
        if all(subject.label in self.alike for subject in models):
            return self.tokens
        if len(models) < 2:
            (model,) = models
            raise ValueError(
                f"{model.label} reads other tokens than the probe set's, so that saved activations cannot be aligned "
                "with it; give the model that they are of, or leave one of the two out"
            )
        assert self.text is not None and b.reference is not None
        first, second = (None if subject.label in self.alike else subject.reference for subject in (a, b))
        if second is None:
            assert first is not None
            return self.text.aligned(None, first).swapped()
        return self.text.aligned(first, second)


def probe_for(cfg: DictConfig, subjects: Sequence[Subject]) -> tuple[Tensor | None, dict[str, Any]]:
    """The probe set on which models of one tokenizer are run, and what provenance.json says of it, as `read_by` has it.

    Raises:
        ValueError: as `read_by`, and for models of other tokenizers.
    """
    probe = read_by(cfg, subjects)
    for subject in subjects:
        if subject.reference is not None and subject.label not in probe.alike:
            assert probe.tokenizer is not None
            references.check_tokenizer(subject.reference, probe.tokenizer)
    return probe.tokens, probe.notes


def read_by(cfg: DictConfig, subjects: Sequence[Subject]) -> Probe:
    """The probe set on which models are run; without one where none is.

    The text is that of the first model's run, or of `data=`. It is cut in the tokens that all models have; where there
    are several tokenizers, in those of the first model that lies in the folder of a run, or in `data=`'s own. What
    `probe.*` leaves open is as in that run.

    Raises:
        ValueError: no run to take the data from, a tokenizer that cannot be read, sequences longer than a model reads.
    """
    models = {subject.label: subject.reference for subject in subjects if subject.reference is not None}
    if not models:
        return Probe(None, None, None, None, frozenset(), {})
    data, run, theirs = data_of(cfg, list(models.values()))
    alike = frozenset(label for label, model in models.items() if references.same_tokenizer(model, data.tokenizer))
    chosen = {key: theirs[key] if cfg.probe[key] is None else cfg.probe[key] for key in PROBE}
    for label, model in models.items():
        most = context_of(model.model)
        if label in alike and most is not None and chosen["length"] > most:
            uri = model.provenance["uri"]
            raise ValueError(f"probe.length={chosen['length']}: {uri} reads at most {most}; type probe.length={most}")
    tokens = data.probe(**chosen)
    source = str(cfg.data.source._target_) if cfg.data else run
    notes = {**chosen, "sha256": probe_hash(tokens), "data": source, "data_fingerprint": data.fingerprint}
    text = ProbeText(tokens, data.tokenizer, cfg.align.unit, cfg.align.take) if len(alike) < len(models) else None
    mask = None if cfg.include_padding else real_of(tokens, list(models.values()))
    return Probe(tokens, mask, data.tokenizer, text, alike, notes)


def real_of(tokens: Tensor, models: Sequence[Reference]) -> Tensor | None:
    """Which positions are text, as the first classifier of `models` has it; None without one: all are."""
    classifiers: list[Any] = [model.model for model in models if model.labels is not None]
    return classifiers[0].real(tokens) if classifiers else None


def data_of(cfg: DictConfig, models: Sequence[Reference]) -> tuple[Any, str, dict[str, Any]]:
    """The data that `data=` names, or that of the first model's run; the URI of that run; and its probe set's keys.

    Raises:
        ValueError: no run to take the data from, data that is not of this project, a tokenizer that cannot be read.
    """
    run, folder = _run_of(models)
    config = config_of(folder) if run else {}
    theirs = (
        {key: entry(config, f"probe.{key}", type(usual), folder) for key, usual in PROBE.items()} if config else PROBE
    )
    silence()
    if not cfg.data:
        return _data_of_run(cfg, models, config, folder), run, theirs
    data = settings.instantiate(_data(cfg, models))
    data.prepare_data()
    data.setup("fit")
    return data, run, theirs


def with_probe(cfg: DictConfig, sequences: int, length: int) -> DictConfig:
    """The config with the study's own probe set where the command line names none."""
    filled = cfg.copy()
    for key, value in (("sequences", sequences), ("length", length)):
        if filled.probe[key] is None:
            filled.probe[key] = value
    return filled


def measures_of(cfg: DictConfig) -> list[Any]:
    """The measures that the config asks for."""
    return [settings.instantiate(node) for node in cfg.measures.values()]


def _subject(uri: str, label: str, runs_dir: str, home: torch.device) -> Subject:
    if is_saved(uri):
        return Subject(label, uri, None, {"uri": uri, "sha256": _hashes(Path(uri))})
    reference = references.load(uri, runs_dir)
    return Subject(label, reference.model.to(home), reference, reference.provenance)


def _run_of(models: Sequence[Reference]) -> tuple[str, Path]:
    """The URI and the run's folder of the first model that lies in one; no URI where none does."""
    for model in models:
        folder = Path(model.provenance["path"]).parent.parent
        if (folder / "config.yaml").is_file():
            return model.provenance["uri"], folder
    return "", Path()


def _data(cfg: DictConfig, models: Sequence[Reference]) -> dict[str, Any]:
    """The config of the text that `data=` names, in the models' tokens."""
    data = resolved(cfg.data)
    chosen = _tokenizer_of(models)
    if chosen is not None:
        data["tokenizer"] = {"_target_": "data.tokenizers.TokenizerFile", "path": chosen}
    return data


def _data_of_run(cfg: DictConfig, models: Sequence[Reference], config: dict[str, Any], folder: Path) -> Any:
    """The data of a run."""
    if "data" not in config:
        uris = ", ".join(model.provenance["uri"] for model in models)
        raise ValueError(
            f"none of {uris} lies in the folder of a run, which says on what text it was trained: type data=..."
        )
    return rebuilt(config["data"], folder / "config.yaml", cfg.cache_dir)


def _tokenizer_of(models: Sequence[Reference]) -> str | None:
    """The file of the tokenizer that all models have, or of the first that lies in the folder of a run.

    Several models of others' have none in common: what theirs leaves out of a text (capitals, line ends) the rest would
    not see either.
    """
    with_one = [model for model in models if model.tokenizer is not None]
    if len({model.provenance["tokenizer_sha256"] for model in with_one}) > 1:
        with_one = [model for model in with_one if _run_of([model])[0]]
    return with_one[0].provenance["tokenizer_path"] if with_one else None


def _hashes(path: Path) -> Any:
    """The sha256 of a file, or of each .npy file of a folder by name."""
    if path.is_dir():
        return {file.name: _hashes(file) for file in sorted(path.glob("*.npy"))}
    if not path.is_file():
        raise ValueError(f"models: there is no file {path.absolute()}")
    return sha256_of(path)
