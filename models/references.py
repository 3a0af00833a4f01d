"""Frozen models to compare with, loaded by URI.

runs/NAME         a finished or running run of ours: the weights of its last checkpoint
runs/NAME@STEP    the same run after STEP updates
PATH.ckpt         one checkpoint file of ours
hf:FOLDER         a model of Hugging Face transformers, as `save_pretrained` writes it
hf:ORG/MODEL@REVISION  one of the hub, downloaded once
"""

import difflib
import hashlib
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tokenizers import Tokenizer
from torch import nn

from models.language_model import FORMAT, LanguageModel
from models.pretrained import folder_of, load_folder

SUPPORTED = (
    "runs/NAME (a run's last checkpoint), runs/NAME@STEP (after STEP updates), the path of a .ckpt file, or "
    "hf:FOLDER or hf:ORG/MODEL@REVISION"
)
NEEDED = ("state_dict", "hyper_parameters")
OTHER_TOKENIZERS = ("vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "merges.txt")
ZIP, PICKLE = b"PK", b"\x80"


@dataclass(frozen=True)
class Reference:
    """A frozen model and where it came from.

    Attributes:
        model: the net itself, in eval mode, on the CPU, without gradients; tokens (batch, pos) -> logits.
        tokenizer: the run's own, or None where no tokenizer.json lies beside the checkpoints.
        sites: names of the points at which it can be read, in depth order; empty for a net that does not list them.
        provenance: `uri`, `path` (resolved), `step` (updates made; None for others' models), `sha256` (of the
            checkpoint file or the weights), `pinned` (the URI that stands for the same model for ever),
            `tokenizer_path` and `tokenizer_sha256` (None without a tokenizer).
    """

    model: nn.Module
    tokenizer: Tokenizer | None
    sites: tuple[str, ...]
    provenance: dict[str, Any]


def load(uri: str, runs_dir: str | Path = "runs") -> Reference:
    """Load the model that `uri` names; `runs/` in it stands for `runs_dir`.

    Nothing that a checkpoint holds is executed: tensors and plain containers are read, and the net is built from its
    settings, which may name nn.Module classes only.

    Raises:
        ValueError: names the file, what is wrong with it and what to do.
    """
    if uri.startswith("hf:"):
        return _load_pretrained(uri)
    path = resolve(uri, runs_dir)
    with path.open("rb") as file:  # opened once, so that hash and weights are of the same file though it be replaced
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        checkpoint = _read(file, path)
    model = _rebuild(checkpoint, path).net
    tokenizer, tokenizer_path = _tokenizer_beside(path)
    provenance = {
        "uri": uri,
        "path": str(path.resolve()),
        "step": checkpoint.get("global_step"),
        "sha256": digest,
        "pinned": str(path.resolve()),
        "tokenizer_path": None if tokenizer_path is None else str(tokenizer_path),
        "tokenizer_sha256": None if tokenizer is None else tokenizer_hash(tokenizer),
    }
    return Reference(model.eval().requires_grad_(False), tokenizer, tuple(getattr(model, "sites", ())), provenance)


def _load_pretrained(uri: str) -> Reference:
    folder, commit = folder_of(uri)
    model, tokenizer, digest = load_folder(folder, uri)
    pinned = f"hf:{folder.resolve()}" if commit is None else f"{uri.partition('@')[0]}@{commit}"
    provenance = {
        "uri": uri,
        "path": str(folder.resolve()),
        "step": None,
        "sha256": digest,
        "pinned": pinned,
        "tokenizer_path": None if tokenizer is None else str(folder.resolve() / "tokenizer.json"),
        "tokenizer_sha256": None if tokenizer is None else tokenizer_hash(tokenizer),
    }
    return Reference(model.eval().requires_grad_(False), tokenizer, (), provenance)


def resolve(uri: str, runs_dir: str | Path = "runs") -> Path:
    """The checkpoint file, or folder of a pretrained model, that `uri` names, as for `load`.

    Raises:
        ValueError: the URI is of no supported kind, or there is no such run, step or file.
    """
    if uri in ("init", "previous"):
        raise ValueError(
            f"reference {uri!r} is the run's own past, which only the tracker can take while the run trains: write it"
            f" in references=[...]; to load a model from disk give {SUPPORTED}"
        )
    scheme, colon, _ = uri.partition(":")
    if uri.startswith("hf:"):
        return folder_of(uri)[0]
    if colon and scheme in ("tl", "wandb"):
        raise ValueError(f"reference {uri!r}: {scheme}: is not supported; supported are {SUPPORTED}")
    if uri.endswith(".ckpt"):
        path = Path(uri)
        if not path.is_file():
            raise ValueError(f"reference {uri!r}: there is no file {path.absolute()}{_nearest(path.name, path.parent)}")
        return path
    name, _, step = uri.partition("@")
    folder = Path(runs_dir) / name.removeprefix("runs/") if name.startswith("runs/") else Path(name)
    if folder.is_file():
        raise ValueError(f"reference {uri!r}: {folder.absolute()} is a file, and no .ckpt; a reference is {SUPPORTED}")
    if not folder.is_dir():
        raise ValueError(
            f"reference {uri!r}: there is no run folder {folder.absolute()}{_nearest(folder.name, folder.parent)};"
            f" a reference is {SUPPORTED}"
        )
    return _checkpoint_at(folder, step, uri) if step else _last_checkpoint(folder, uri)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """sha256 of the tokenizer's JSON, the same however the file was indented."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def check_tokenizer(reference: Reference, tokenizer: Tokenizer) -> None:
    """Raise ValueError if `reference` was trained on the tokens of another tokenizer than `tokenizer`.

    A reference without a tokenizer of its own passes if every token that `tokenizer` makes is in its vocabulary.
    """
    uri = reference.provenance["uri"]
    have = tokenizer.get_vocab_size()
    if reference.tokenizer is None:
        config = getattr(reference.model, "config", None)
        d_vocab = getattr(reference.model, "d_vocab", getattr(config, "vocab_size", have))
        if d_vocab < have:
            raise ValueError(
                f"reference {uri!r} knows {d_vocab} tokens and the probe's tokenizer makes {have}: it was trained with"
                " another tokenizer; choose a reference trained on the same data and tokenizer"
            )
        return
    theirs, ours = tokenizer_hash(reference.tokenizer), tokenizer_hash(tokenizer)
    if theirs != ours:
        raise ValueError(
            f"reference {uri!r} was trained with another tokenizer (sha256 {theirs[:12]},"
            f" {reference.tokenizer.get_vocab_size()} tokens) than this run (sha256 {ours[:12]}, {have} tokens), so the"
            " same token numbers are other text to it; train both on one tokenizer, such as the reference's:"
            f" data/tokenizer=file data.tokenizer.path={_shown(reference.provenance['tokenizer_path'])}"
        )


def reads_alike(reference: Reference, tokenizer: Tokenizer) -> bool:
    """Whether `reference` reads the tokens of `tokenizer`; if not, the two are to be aligned by the text.

    Raises:
        ValueError: that cannot be known, or not be done: it has a tokenizer in a form that is not read here, or none
            and fewer tokens.
    """
    if reference.tokenizer is not None:
        return tokenizer_hash(reference.tokenizer) == tokenizer_hash(tokenizer)
    path = Path(reference.provenance["path"])
    folder = path if path.is_dir() else path.parent
    there = [name for name in OTHER_TOKENIZERS if (folder / name).is_file()]
    if there:
        raise ValueError(
            f"reference {reference.provenance['uri']!r} has its tokenizer as {', '.join(there)}, and read is "
            f'tokenizer.json; write it once: python -c "from transformers import AutoTokenizer as A; '
            f"A.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    check_tokenizer(reference, tokenizer)
    return True


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
        there = ", ".join(map(str, sorted(steps))) or "none"
        raise ValueError(f"reference {uri!r}: no checkpoint of step {step!r} in {folder.absolute()}; it has {there}")
    return steps[int(step)]


def steps_of(folder: Path) -> dict[int, Path]:
    """The checkpoints that the schedule left in the folder of a run, by step."""
    found = {path.stem.removeprefix("step_"): path for path in (folder / "checkpoints").glob("step_*.ckpt")}
    return {int(step): path for step, path in found.items() if step.isdecimal()}


def _nearest(name: str, folder: Path) -> str:
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(name, there, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _read(file: BinaryIO, path: Path) -> dict[str, Any]:
    """Tensors and plain containers of a checkpoint; never the objects of a pickle."""
    start = file.read(2)
    size = file.seek(0, 2)
    file.seek(0)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises some ten kinds, by where the file is broken
        if isinstance(error, pickle.UnpicklingError) and (start[:1] == PICKLE or "GLOBAL" in str(error)):
            objects = re.findall(r"GLOBAL (\S+)", str(error))
            named = f" ({objects[0]})" if objects else ""
            why = (
                f"it holds Python objects{named} beside tensors, numbers and text, which can run any code when loaded,"
                " so none of it was loaded; give a checkpoint that train.py wrote"
            )
        elif start == ZIP or size == 0:
            why = f"it is truncated or damaged ({size} bytes); copy it again or take another step"
        else:
            why = f"it is not a checkpoint ({size} bytes, not in torch.save's format); give a file that train.py wrote"
        raise ValueError(f"cannot load {path.absolute()}: {why}") from error
    if not (isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(key), dict) for key in NEEDED)):
        found = list(checkpoint)[:6] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"cannot load {path.absolute()}: it is not a checkpoint of a training run: expected {' and '.join(NEEDED)},"
            f" found {found}; give a file that train.py wrote"
        )
    return checkpoint


def _rebuild(checkpoint: dict[str, Any], path: Path) -> LanguageModel:
    written = checkpoint.get("format", FORMAT)
    if written > FORMAT:
        raise ValueError(
            f"cannot load {path.absolute()}: a newer version wrote it (format {written}, this version reads up to"
            f" {FORMAT}); update this project"
        )
    settings = checkpoint["hyper_parameters"]
    family = settings["net"].get("family") if isinstance(settings.get("net"), dict) else None
    try:
        module = LanguageModel(**settings)
        module.load_state_dict(checkpoint["state_dict"])
    except Exception as error:  # whatever a constructor of any family, of any version, may raise
        raise ValueError(
            f"cannot load {path.absolute()}: its model (family {family!r}) cannot be built here: {error}; a family of"
            " your own must be importable as it was in training, and other code than wrote it may not read it"
        ) from error
    return module


def _tokenizer_beside(path: Path) -> tuple[Tokenizer, Path] | tuple[None, None]:
    """The tokenizer of the run whose checkpoints folder holds `path`, and its file."""
    for folder in (path.absolute().parent.parent, path.absolute().parent):
        file = folder / "tokenizer.json"
        if file.is_file():
            try:
                return Tokenizer.from_file(str(file)), file
            except Exception as error:  # tokenizers raises bare Exception
                raise ValueError(f"cannot read the tokenizer {file}: {error}; copy it again from the run") from error
    return None, None


def _shown(path: str) -> str:
    """A path as one would type it: from here, where it is under this folder."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
