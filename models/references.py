"""Frozen models to compare with, loaded by URI.

runs/NAME         a run, finished or not: the weights of its last checkpoint
runs/NAME@STEP    the same run after STEP steps
PATH.ckpt         a checkpoint file of a run
PATH.safetensors  a net in one file, as study=export writes it
hf:FOLDER         a model of Hugging Face transformers, as `save_pretrained` writes it; or hf:FOLDER/FILE.gguf
hf:ORG/MODEL@REVISION  one of the hub, downloaded once
tl:NAME           a toy model of TransformerLens (solu-1l, gelu-4l, attn-only-2l, ...), downloaded once
tl:FOLDER         a folder in the same form: config.json and a state dict
wandb:ENTITY/PROJECT/ARTIFACT:VERSION  a checkpoint that is an artifact, downloaded once
untrained:URI     the model of any of these with other initial weights, before any training
"""

import difflib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from dissimilarity.loading import gguf, places, pretrained
from dissimilarity.loading.untrusted import read_json, read_tokenizer
from dissimilarity.tables.files import sha256_of
from dissimilarity.tracking.weights import step_files
from models import artifacts, saved, toys
from models.checkpoints import read_checkpoint, rebuild
from models.exchange.shape import shape_of
from models.untrained import PREFIX, untrained_net

SUPPORTED = (
    "runs/NAME (a run's last checkpoint), runs/NAME@STEP (after STEP updates), the path of a .ckpt or .safetensors "
    f"file, hf:FOLDER or hf:ORG/MODEL@REVISION, tl:FOLDER or tl:NAME, {artifacts.FORM}, or untrained: "
    "before any of these"
)
FOREIGN = ("hf:", "tl:", "wandb:")
FILES = (".ckpt", ".safetensors")
OTHER_TOKENIZERS = ("vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "merges.txt")


@dataclass(frozen=True)
class Reference:
    """A frozen model and where it came from.

    Attributes:
        model: The net, in eval mode, on the CPU, without gradients; tokens (batch, pos) -> logits.
        tokenizer: Its tokenizer, or None if there is no tokenizer.json beside the checkpoints.
        sites: Its sites, in depth order; empty for a net that does not list them.
        provenance: `uri`, `path` (resolved), `step` (None for models that are not from a run), `sha256` (of the
            checkpoint file or the weights), `pinned` (the permanent URI of the same model), `tokenizer_path` and
            `tokenizer_sha256` (None without a tokenizer); for an artifact also its `version` and `digest`, for a toy
            model the `seed` of its training, which models with equal initial weights and data order share.
        settings: The settings of the net, in the form of a YAML of conf/model, with `d_vocab`; None for a Hugging Face
            model. For a classifier, those of its body (`model.net`).
        labels: The labels of a classifier, in the order of its logits (batch, labels); None for any other model.
    """

    model: nn.Module
    tokenizer: Tokenizer | None
    sites: tuple[str, ...]
    provenance: dict[str, Any]
    settings: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None


def load(uri: str, runs_dir: str | Path = "runs", block_by_block: bool = False) -> Reference:
    """Load the model that `uri` names; `runs/` in it stands for `runs_dir`.

    Nothing in a file is executed. Tensors and plain values are read, and the net is built from its settings, which may
    name classes of models/ and activations of torch, and others only within `trusted.naming`.

    Args:
        uri: The model.
        runs_dir: Folder of the runs.
        block_by_block: Whether the weights of an `hf:` model are read from disk one block at a time. Other models are
            read whole.

    Raises:
        ValueError: If it cannot be loaded; names the file, what is wrong with it and what to do.
    """
    if uri.startswith(PREFIX):
        return _load_untrained(uri, runs_dir)
    if uri.startswith("hf:"):
        return _load_pretrained(uri, block_by_block)
    if uri.startswith("tl:"):
        return _load_toy(uri)
    if uri.startswith("wandb:"):
        path, origin = artifacts.file_of(uri)
        reference = load(str(path))
        return replace(reference, provenance={**reference.provenance, "uri": uri, **origin})
    path = resolve(uri, runs_dir)
    return _load_saved(uri, path) if path.suffix == ".safetensors" else _load_checkpoint(uri, path)


def _load_untrained(uri: str, runs_dir: str | Path) -> Reference:
    """Load a model with other initial weights; those of its file only say what it is."""
    trained = load(uri.removeprefix(PREFIX), runs_dir)
    net, settings = untrained_net(trained)
    changed = {"uri": uri, "step": 0, "pinned": f"{PREFIX}{trained.provenance['pinned']}"}
    provenance = {**trained.provenance, **changed}
    return Reference(net, trained.tokenizer, tuple(getattr(net, "sites", ())), provenance, settings)


def _load_checkpoint(uri: str, path: Path) -> Reference:
    with path.open(
        "rb"
    ) as file:  # opened once, so that hash and weights belong to the same file even if it is replaced
        digest = sha256_of(file)
        file.seek(0)
        checkpoint = read_checkpoint(file, path)
    module = rebuild(checkpoint, path)
    arguments = checkpoint["hyper_parameters"]
    settings = {**arguments["net"], "d_vocab": arguments["d_vocab"]}
    step = checkpoint.get("global_step")
    step = step if type(step) is int else None
    reference = _reference(uri, path, module.net, *_tokenizer_beside(path), settings, sha256=digest, step=step)
    return replace(reference, labels=tuple(arguments["labels"])) if "labels" in arguments else reference


def _load_saved(uri: str, path: Path, pinned: str | None = None) -> Reference:
    net, settings = saved.read_net(path)
    return _reference(uri, path, net, *_tokenizer_beside(path), settings, sha256=sha256_of(path), pinned=pinned)


def _load_pretrained(uri: str, block_by_block: bool) -> Reference:
    place, commit = places.folder_of(uri)
    pinned = f"hf:{place.resolve()}" if commit is None else f"{uri.partition('@')[0]}@{commit}"
    if saved.holds_net(place / "model.safetensors"):
        return _load_saved(uri, place / "model.safetensors", pinned)
    if place.is_file():
        model, tokenizer, file, digest = gguf.load_file(place, uri)
    else:
        model, tokenizer, file, digest = pretrained.load_folder(place, uri, block_by_block)
    return _reference(uri, place, model, tokenizer, file, None, sha256=digest, pinned=pinned)


def _load_toy(uri: str) -> Reference:
    folder, commit = toys.folder_of(uri)
    net, tokenizer, file, digest = toys.load_folder(folder, uri)
    pinned = f"tl:{folder.resolve()}" if commit is None else f"{uri.partition('@')[0]}@{commit}"
    settings = shape_of(net).settings()
    reference = _reference(uri, folder, net, tokenizer, file, settings, sha256=digest, pinned=pinned)
    return replace(reference, provenance={**reference.provenance, "seed": toys.seed_of(folder)})


def _reference(
    uri: str,
    path: Path,
    model: nn.Module,
    tokenizer: Tokenizer | None,
    tokenizer_path: Path | None,
    settings: dict[str, Any] | None,
    *,
    sha256: str,
    step: int | None = None,
    pinned: str | None = None,
) -> Reference:
    provenance = {
        "uri": uri,
        "path": str(path.resolve()),
        "step": step,
        "sha256": sha256,
        "pinned": pinned or str(path.resolve()),
        "tokenizer_path": None if tokenizer_path is None else str(tokenizer_path),
        "tokenizer_sha256": None if tokenizer is None else tokenizer_hash(tokenizer),
    }
    model.eval().requires_grad_(False)
    sites = () if settings is None else tuple(getattr(model, "sites", ()))
    return Reference(model, tokenizer, sites, provenance, settings)


def resolve(uri: str, runs_dir: str | Path = "runs") -> Path:
    """Return the file, or the folder of a pretrained model, that `uri` names.

    Raises:
        ValueError: If the URI has no supported form, or there is no such run, step or file.
    """
    if uri in ("init", "previous"):
        raise ValueError(
            f"reference {uri!r} is an earlier state of the run itself, which only the tracker has while it trains: "
            f"name it in references=[...]; to load a model from disk give {SUPPORTED}"
        )
    if uri.startswith(PREFIX):
        return resolve(uri.removeprefix(PREFIX), runs_dir)
    if uri == PREFIX.removesuffix(":"):
        raise ValueError(
            "reference 'untrained' is the model of a run in training with other initial weights, which only train.py "
            "knows: name it in references=[...], or type untrained:runs/NAME for that of a run"
        )
    if uri.startswith(FOREIGN):
        look_up = {"hf": places.folder_of, "tl": toys.folder_of, "wandb": artifacts.file_of}
        return look_up[uri.partition(":")[0]](uri)[0]
    if uri.endswith(FILES):
        path = Path(uri)
        if not path.is_file():
            raise ValueError(f"reference {uri!r}: there is no file {path.absolute()}{_nearest(path.name, path.parent)}")
        return path
    if foreign := _foreign(Path(uri)):
        raise ValueError(f"reference {uri!r}: this is not a run but a model of another library; type {foreign}")
    name, _, step = uri.partition("@")
    folder = Path(runs_dir) / name.removeprefix("runs/") if name.startswith("runs/") else Path(name)
    if folder.is_file():
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} is a file, but not {' or '.join(FILES)}; "
            f"a reference is {SUPPORTED}"
        )
    if not folder.is_dir():
        raise ValueError(
            f"reference {uri!r}: there is no run folder {folder.absolute()}{_nearest_run(name, Path(runs_dir))}; a "
            f"reference is {SUPPORTED}"
        )
    return _checkpoint_at(folder, step, uri) if step else _last_checkpoint(folder, uri)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Return the sha256 of the tokenizer's JSON, which does not depend on the layout of the file."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def check_tokenizer(reference: Reference, tokenizer: Tokenizer) -> None:
    """Raise ValueError if `reference` was not trained with `tokenizer`.

    A reference without a tokenizer passes if its vocabulary has as many tokens as `tokenizer`.
    """
    uri = reference.provenance["uri"]
    have = tokenizer.get_vocab_size()
    if reference.tokenizer is None:
        config = getattr(reference.model, "config", None)
        d_vocab = getattr(reference.model, "d_vocab", getattr(config, "vocab_size", have))
        if d_vocab < have:
            raise ValueError(
                f"reference {uri!r} knows {d_vocab} tokens and the tokenizer of the probe set has {have}: it was "
                "trained with a different tokenizer; choose a reference trained with the same data and tokenizer"
            )
        return
    reference_hash, own_hash = tokenizer_hash(reference.tokenizer), tokenizer_hash(tokenizer)
    if reference_hash != own_hash:
        raise ValueError(
            f"reference {uri!r} was trained with a different tokenizer (sha256 {reference_hash[:12]},"
            f" {reference.tokenizer.get_vocab_size()} tokens) than this run (sha256 {own_hash[:12]}, {have} tokens), so"
            " the same token ids mean different text to it; train both on one tokenizer, such as the reference's:"
            f" data/tokenizer=file data.tokenizer.path={_shown(reference.provenance['tokenizer_path'])}"
        )


def same_tokenizer(reference: Reference, tokenizer: Tokenizer) -> bool:
    """Return whether `reference` uses `tokenizer`; if not, the two are aligned by their text.

    Raises:
        ValueError: If this cannot be decided: its tokenizer has an unsupported form, or it has no tokenizer and fewer
            tokens.
    """
    if reference.tokenizer is not None:
        return tokenizer_hash(reference.tokenizer) == tokenizer_hash(tokenizer)
    if advice := unread_tokenizer(reference):
        raise ValueError(f"reference {reference.provenance['uri']!r} {advice}")
    check_tokenizer(reference, tokenizer)
    return True


def unread_tokenizer(reference: Reference) -> str:
    """Return that a model has its tokenizer in files that are not read, and what to type; empty if it has none."""
    path = Path(reference.provenance["path"])
    folder = path if path.is_dir() else path.parent
    names = [name for name in OTHER_TOKENIZERS if (folder / name).is_file()]
    if not names:
        return ""
    return (
        f"has its tokenizer as {', '.join(names)}, and only tokenizer.json is read; write it once: python -c "
        f"\"from transformers import AutoTokenizer as A; A.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )


def _last_checkpoint(folder: Path, uri: str) -> Path:
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        return last
    steps = steps_of(folder)
    if not steps:
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} holds no checkpoint (looked for checkpoints/last.ckpt and"
            " checkpoints/step_*.ckpt); let that run train first"
        )
    return steps[max(steps)]


def _checkpoint_at(folder: Path, step: str, uri: str) -> Path:
    steps = steps_of(folder)
    if not (step.isdecimal() and int(step) in steps):
        available = ", ".join(map(str, sorted(steps))) or "none"
        raise ValueError(
            f"reference {uri!r}: no checkpoint of step {step!r} in {folder.absolute()}; it has {available}; "
            "type one of those, or train such a run with checkpoints.keep=all or another schedule.every"
        )
    return steps[int(step)]


def steps_of(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of the schedule in the folder of a run, by step."""
    return step_files(folder / "checkpoints")


def _nearest(name: str, folder: Path, prefix: str = "") -> str:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def _nearest_run(name: str, runs: Path) -> str:
    """Return the run that a name most likely means, as it is typed."""
    return _nearest(name.removeprefix("runs/"), runs, "runs/")


def _tokenizer_beside(path: Path) -> tuple[Tokenizer, Path] | tuple[None, None]:
    """Return the tokenizer of the run whose checkpoints folder holds `path`, and its file."""
    for folder in (path.absolute().parent.parent, path.absolute().parent):
        file = folder / "tokenizer.json"
        if file.is_file():
            _check_tokenizer_file(file)
            return read_tokenizer(file), file
    return None, None


def _check_tokenizer_file(file: Path) -> None:
    """Compare the tokenizer of a run with the hash that the run recorded, if there is one."""
    notes = file.with_name("provenance.json")
    if notes.is_file():
        try:
            recorded = read_json(notes)["data"]["tokenizer_sha256"]
        except (ValueError, KeyError, TypeError):
            return
        if recorded != sha256_of(file):
            raise ValueError(
                f"the tokenizer {file} has changed since its run began (see {notes}); put a copy of it back"
            )


def _foreign(path: Path) -> str | None:
    """Return the reference to a model of another library that `path` names without saying so; None if it names none."""
    if path.is_file() and path.suffix.lower() == ".gguf":
        return f"hf:{path}"
    if not path.is_dir() or (path / "checkpoints").is_dir():
        return None
    if (path / "config.json").is_file():
        of_lens = any(path.glob("*.pth")) and not any((*path.glob("*.safetensors"), *path.glob("*.bin")))
        return f"tl:{path}" if of_lens else f"hf:{path}"
    quantized = sorted(path.glob("*.[gG][gG][uU][fF]"))
    return f"hf:{quantized[0]}" if quantized else None


def _shown(path: str) -> str:
    """Return a path as it is typed, relative to the current folder if it is inside."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
