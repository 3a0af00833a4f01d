"""The inputs of a study: models by URI, saved activations, and the probe set that they share."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tokenizers import Tokenizer
from torch import Tensor, nn

import settings
from data.probe import probe_hash
from dissimilarity.capture.enter import logits_of
from dissimilarity.capture.forward import undisturbed
from dissimilarity.capture.hooks import device_of
from dissimilarity.capture.offloaded import moved, offloaded
from dissimilarity.capture.sites import site_table
from dissimilarity.comparison import array_files
from dissimilarity.comparison.saved import Source
from dissimilarity.loading.context import context_of
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.pooling import real_positions
from dissimilarity.probe.steps import Steps, groups_of
from dissimilarity.stitching.losses import sequence_losses
from dissimilarity.stitching.penalty import batches_of
from dissimilarity.tables.files import sha256_of
from dissimilarity.tables.names import name_of
from launch.cli.quiet import silence
from launch.machine import training_device
from launch.run.alignment import ProbeText
from launch.run.folder import resolved
from models import references
from models.references import Reference
from models.saved import holds_net
from studies.common.runs import config_of, data_of_run, entry

FILES = "data.sources.files.Files"
PROBE = {"sequences": 128, "length": 64, "split": "val"}


@dataclass(frozen=True)
class Subject:
    """One side of a comparison.

    Attributes:
        label: name in tables and figures.
        source: the net, on the device of the study, or the path of saved activations.
        reference: the model with its tokenizer; None for saved activations.
        provenance: URI, path and hash of the file.
    """

    label: str
    source: Source
    reference: Reference | None
    provenance: dict[str, Any]


def load_subjects(uris: Sequence[str], runs_dir: str, device: str) -> list[Subject]:
    """Load the models and saved activations that URIs name.

    Raises:
        ValueError: A URI is listed twice, or its model is missing or broken.
    """
    check_uris(uris, runs_dir)
    target = training_device(device)
    return [_subject(uri, label, runs_dir, target) for uri, label in zip(uris, short_labels(uris), strict=True)]


def load_without_weights(
    uris: Sequence[str], runs_dir: str, on_progress: Callable[[str], object], block_by_block: bool = False
) -> list[Subject]:
    """Load subjects one at a time and keep their nets without weights, on the `meta` device.

    Args:
        uris: models and saved activations.
        runs_dir: folder of the runs.
        on_progress: called with a status message.
        block_by_block: as for `references.load`.

    Raises:
        ValueError: As for `load_subjects`.
    """
    labels = short_labels(uris)
    check_uris(uris, runs_dir)
    subjects = []
    for uri, label in zip(uris, labels, strict=True):
        on_progress(f"reading {label}")
        subjects.append(_subject(uri, label, runs_dir, torch.device("meta"), block_by_block))
    return subjects


def source_of(
    subject: Subject, runs_dir: str, device: torch.device, block_by_block: bool = False
) -> Source | Callable[[], nn.Module]:
    """Return the path of saved activations, or a function that loads the model with its weights."""
    if subject.reference is None:
        return subject.source
    return lambda: moved(references.load(subject.provenance["uri"], runs_dir, block_by_block).model, device)


def check_uris(uris: Sequence[str], runs_dir: str) -> None:
    """Check that each URI is listed once and names something that exists.

    Raises:
        ValueError: A URI is listed twice or names nothing.
    """
    repeated = sorted({uri for uri in uris if list(uris).count(uri) > 1})
    if repeated:
        raise ValueError(f"models: {', '.join(repeated)} is listed twice; list each model once")
    for uri in uris:
        if not is_saved(uri):
            references.resolve(uri, runs_dir)


def is_saved(uri: str) -> bool:
    """Return whether a URI names saved activations rather than a model."""
    return array_files.is_saved(uri) and not (uri.endswith(".safetensors") and holds_net(Path(uri)))


def short_labels(uris: Sequence[str]) -> list[str]:
    """Return the last part of each URI if it is unique, else the whole URI.

    Examples:
        >>> short_labels(["runs/a", "runs/b", "old/b"])
        ['a', 'runs/b', 'old/b']
    """
    names = [name_of(uri) for uri in uris]
    return [uri if names.count(name) > 1 else name for uri, name in zip(uris, names, strict=True)]


@dataclass(frozen=True)
class SharedProbe:
    """The probe set of a study, as each of its models reads it.

    Attributes:
        tokens: the sequences; None if no model is run.
        mask: True at the positions that are text; None if all are.
        tokenizer: the tokenizer of `tokens`.
        text: the text behind them, for models with other tokenizers.
        same_tokenizer: labels of the models that read `tokens` as they are.
        notes: the entry in provenance.json.
    """

    tokens: Tensor | None
    mask: Tensor | None
    tokenizer: Tokenizer | None
    text: ProbeText | None
    same_tokenizer: frozenset[str]
    notes: dict[str, Any]

    def between(self, a: Subject, b: Subject) -> Tensor | Alignment | None:
        """Return what two subjects are compared on: the tokens, or an alignment if their tokenizers differ.

        Raises:
            ValueError: The tokens have no common boundary, or saved activations meet a model with another tokenizer.
        """
        models = [subject for subject in (a, b) if subject.reference is not None]
        if all(subject.label in self.same_tokenizer for subject in models):
            return self.tokens
        if len(models) < 2:
            (model,) = models
            raise ValueError(
                f"{model.label} uses a different tokenizer than the probe set, so saved activations cannot be aligned "
                "with it; list the model that they come from instead, or leave one of the two out"
            )
        assert self.text is not None and b.reference is not None
        first, second = (None if subject.label in self.same_tokenizer else subject.reference for subject in (a, b))
        if second is None:
            assert first is not None
            return self.text.aligned(None, first).swapped()
        return self.text.aligned(first, second)


def probe_of_one_tokenizer(cfg: DictConfig, subjects: Sequence[Subject]) -> SharedProbe:
    """Return the probe set of models that share a tokenizer.

    Raises:
        ValueError: As for `shared_probe`, or the models use different tokenizers.
    """
    probe = shared_probe(cfg, subjects)
    for subject in subjects:
        if subject.reference is not None and subject.label not in probe.same_tokenizer:
            assert probe.tokenizer is not None
            references.check_tokenizer(subject.reference, probe.tokenizer)
    return probe


def shared_probe(cfg: DictConfig, subjects: Sequence[Subject]) -> SharedProbe:
    """Return the probe set on which models are run; it is empty if there is no model to run.

    The text comes from `data=`, or else from the first model's run. Files of the user are read whole unless
    `probe.split` is set. The text is tokenized by the models' tokenizer. If their tokenizers differ, that of the first
    model in a run folder is used, or else that of `data=`. Keys of `probe` that the user leaves unset come from that
    run.

    Raises:
        ValueError: No run says which data to use, a tokenizer cannot be read, or sequences exceed a model's context.
    """
    models = {subject.label: subject.reference for subject in subjects if subject.reference is not None}
    if not models:
        return SharedProbe(None, None, None, None, frozenset(), {})
    is_file = bool(cfg.data) and cfg.data.source._target_ == FILES and cfg.probe.split is None
    data, run, defaults = data_of(cfg, list(models.values()), **({"val_fraction": None} if is_file else {}))
    same = frozenset(label for label, model in models.items() if references.same_tokenizer(model, data.tokenizer))
    keys = {key: defaults[key] if cfg.probe[key] is None else cfg.probe[key] for key in PROBE}
    for label, model in models.items():
        longest = context_of(model.model)
        if label in same and longest is not None and keys["length"] > longest:
            uri = model.provenance["uri"]
            raise ValueError(
                f"probe.length={keys['length']}: {uri} reads at most {longest} tokens; type probe.length={longest}"
            )
    tokens = data.probe(keys["sequences"], keys["length"], "train" if is_file else keys["split"])
    keys["split"] = "whole" if is_file else keys["split"]
    source = str(cfg.data.source._target_) if cfg.data else run
    notes = {**keys, "sha256": probe_hash(tokens), "data": source, "data_fingerprint": data.fingerprint}
    mask = None if cfg.include_padding else mask_of(tokens, data, list(models.values()))
    text = ProbeText(tokens, data.tokenizer, cfg.align.unit, cfg.align.take, mask) if len(same) < len(models) else None
    return SharedProbe(tokens, mask, data.tokenizer, text, same, notes)


def mask_of(tokens: Tensor, data: Any, models: Sequence[Reference]) -> Tensor | None:
    """Return which positions are text, by the first classifier of `models` or by data with padding; None for all."""
    classifiers: list[Any] = [model.model for model in models if model.labels is not None]
    if classifiers:
        return classifiers[0].real(tokens)
    return real_positions(tokens, data.pad, data.end_is_pad) if hasattr(data, "pad") else None


def data_of(cfg: DictConfig, models: Sequence[Reference], **arguments: Any) -> tuple[Any, str, dict[str, Any]]:
    """Return the data of `data=` or of the first model's run, the URI of that run, and the keys of its probe set.

    Args:
        cfg: config of analyze.py.
        models: the models of the study.
        **arguments: arguments of the data of `data=` that replace those of the config.

    Raises:
        ValueError: No run says which data to use, the data is not of this project, or a tokenizer cannot be read.
    """
    run, folder = _run_of(models)
    config = config_of(folder) if run else {}
    probe = PROBE
    if config:
        probe = {key: entry(config, f"probe.{key}", type(default), folder) for key, default in PROBE.items()}
    silence()
    if not cfg.data:
        return _data_of_run(cfg, models, config, folder), run, probe
    data = settings.instantiate(_data_config(cfg, models), **arguments)
    data.prepare_data()
    data.setup("fit")
    return data, run, probe


def with_probe(cfg: DictConfig, sequences: int, length: int) -> DictConfig:
    """Return the config with a study's own size of the probe set wherever the user sets none."""
    filled = cfg.copy()
    for key, value in (("sequences", sequences), ("length", length)):
        if filled.probe[key] is None:
            filled.probe[key] = value
    return filled


def measures_of(cfg: DictConfig) -> list[Any]:
    """Build the measures that the config lists."""
    return [settings.instantiate(node) for node in cfg.measures.values()]


def sites_of_config(cfg: DictConfig) -> str | list[str] | None:
    """Return `sites` as plain values."""
    return cfg.sites if cfg.sites is None or isinstance(cfg.sites, str) else list(cfg.sites)


def loss_of(net: nn.Module, tokens: Tensor) -> tuple[float, float]:
    """Return the mean next-token loss in nats and its standard error over sequences; NaN for a model without a head."""
    losses = []
    with undisturbed(net):
        for batch, output in _outputs(net, tokens):
            try:
                logits = logits_of(output)
            except ValueError:
                return math.nan, math.nan
            if logits.shape[-1] <= int(batch.max()):
                return math.nan, math.nan
            losses.append(sequence_losses(logits, batch).double().cpu())
    by_sequence = torch.cat(losses)
    return float(by_sequence.mean()), float(by_sequence.std() / len(by_sequence) ** 0.5)


def _outputs(net: nn.Module, tokens: Tensor) -> Iterator[tuple[Tensor, Any]]:
    """Yield batches of sequences with the net's output; weights that stay in files are read once."""
    if offloaded(net) is None:
        for batch in batches_of(tokens):
            yield batch, net(batch.to(device_of(net)))
        return
    steps = Steps(net, groups_of(tokens), [])
    with steps.attached():
        yield from zip((batch for _, batch in steps.groups), steps.results(), strict=True)


def _subject(uri: str, label: str, runs_dir: str, device: torch.device, block_by_block: bool = False) -> Subject:
    if is_saved(uri):
        return Subject(label, uri, None, {"uri": uri, "sha256": _hashes(Path(uri))})
    reference = references.load(uri, runs_dir, block_by_block)
    if device.type == "meta":
        site_table(reference.model)  # names are found by running the model, which takes its weights
    return Subject(label, moved(reference.model, device), reference, reference.provenance)


def _run_of(models: Sequence[Reference]) -> tuple[str, Path]:
    """Return the URI and run folder of the first model that is in one; an empty URI if none is."""
    for model in models:
        folder = Path(model.provenance["path"]).parent.parent
        if (folder / "config.yaml").is_file():
            return model.provenance["uri"], folder
    return "", Path()


def _data_config(cfg: DictConfig, models: Sequence[Reference]) -> dict[str, Any]:
    """Return the config of the text that `data=` names, with the models' tokenizer."""
    data = resolved(cfg.data)
    path = _tokenizer_of(models)
    if path is not None:
        data["tokenizer"] = {"_target_": "data.tokenizers.TokenizerFile", "path": path}
    return data


def _data_of_run(cfg: DictConfig, models: Sequence[Reference], config: dict[str, Any], folder: Path) -> Any:
    if "data" not in config:
        uris = ", ".join(model.provenance["uri"] for model in models)
        raise ValueError(f"none of {uris} is in a run folder, so there is no text to compare them on: type data=...")
    return data_of_run(config, folder, cfg.cache_dir)


def _tokenizer_of(models: Sequence[Reference]) -> str | None:
    """Return the tokenizer file that all models share, or else that of the first model in the folder of a run.

    It is None for published models with different tokenizers: whatever one of these drops from a text (capitals, line
    breaks) would be lost to the other models too.
    """
    models = [model for model in models if model.tokenizer is not None]
    if len({model.provenance["tokenizer_sha256"] for model in models}) > 1:
        models = [model for model in models if _run_of([model])[0]]
    return models[0].provenance["tokenizer_path"] if models else None


def _hashes(path: Path) -> Any:
    """Return the sha256 of a file, or that of each .npy file of a folder by name."""
    if path.is_dir():
        return {file.name: _hashes(file) for file in sorted(path.glob("*.npy"))}
    if not path.is_file():
        raise ValueError(f"models: there is no file {path.absolute()}")
    return sha256_of(path)
