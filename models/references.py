"""Frozen models to compare with, loaded by URI.

runs/NAME         a finished or running run of ours: the weights of its last checkpoint
runs/NAME@STEP    the same run after STEP updates
PATH.ckpt         one checkpoint file of ours
PATH.safetensors  a net of ours in one file, as study=export writes it
hf:FOLDER         a model of Hugging Face transformers, as `save_pretrained` writes it; or hf:FOLDER/FILE.gguf
hf:ORG/MODEL@REVISION  one of the hub, downloaded once
tl:NAME           a toy model of TransformerLens (solu-1l, gelu-4l, attn-only-2l, ...), downloaded once
tl:FOLDER         a folder in its form: config.json and a state dict
wandb:ENTITY/PROJECT/ARTIFACT:VERSION  a checkpoint kept as an artifact, downloaded once
"""

import difflib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from dissimilarity.loading import gguf, pretrained
from dissimilarity.loading.untrusted import read_json, read_tokenizer
from dissimilarity.tables.files import sha256_of
from models import artifacts, saved, toys
from models.checkpoints import read_checkpoint, rebuild
from models.exchange.shape import shape_of

SUPPORTED = (
    "runs/NAME (a run's last checkpoint), runs/NAME@STEP (after STEP updates), the path of a .ckpt or .safetensors "
    f"file, hf:FOLDER or hf:ORG/MODEL@REVISION, tl:FOLDER or tl:NAME, or {artifacts.FORM}"
)
FOREIGN = ("hf:", "tl:", "wandb:")
FILES = (".ckpt", ".safetensors")
OTHER_TOKENIZERS = ("vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "merges.txt")


@dataclass(frozen=True)
class Reference:
    """A frozen model and where it came from.

    Attributes:
        model: the net itself, in eval mode, on the CPU, without gradients; tokens (batch, pos) -> logits.
        tokenizer: the run's own, or None where no tokenizer.json lies beside the checkpoints.
        sites: names of the points at which it can be read, in depth order; empty for a net that does not list them.
        provenance: `uri`, `path` (resolved), `step` (updates made; None for others' models), `sha256` (of the
            checkpoint file or the weights), `pinned` (the URI that stands for the same model for ever),
            `tokenizer_path` and `tokenizer_sha256` (None without a tokenizer); of an artifact also its `version` and
            `digest`, of a toy model the `seed` of its training, which those of one start and one order of text share.
        settings: what the net is built from, as a YAML of conf/model has it, with `d_vocab`; None for a model of
            Hugging Face's. Of a classifier, what its body (`model.net`) is built from.
        labels: of a classifier, in the order of its logits (batch, labels); None for any other model.
    """

    model: nn.Module
    tokenizer: Tokenizer | None
    sites: tuple[str, ...]
    provenance: dict[str, Any]
    settings: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None


def load(uri: str, runs_dir: str | Path = "runs") -> Reference:
    """Load the model that `uri` names; `runs/` in it stands for `runs_dir`.

    Nothing that a file holds is executed: tensors and plain values are read, and the net is built from its settings,
    which may name classes of models/ and activations of torch; others only inside `trusted.naming`.

    Raises:
        ValueError: names the file, what is wrong with it and what to do.
    """
    if uri.startswith("hf:"):
        return _load_pretrained(uri)
    if uri.startswith("tl:"):
        return _load_toy(uri)
    if uri.startswith("wandb:"):
        path, known = artifacts.file_of(uri)
        reference = load(str(path))
        return replace(reference, provenance={**reference.provenance, "uri": uri, **known})
    path = resolve(uri, runs_dir)
    return _load_saved(uri, path) if path.suffix == ".safetensors" else _load_checkpoint(uri, path)


def _load_checkpoint(uri: str, path: Path) -> Reference:
    with path.open("rb") as file:  # opened once, so that hash and weights are of the same file though it be replaced
        digest = sha256_of(file)
        file.seek(0)
        checkpoint = read_checkpoint(file, path)
    module = rebuild(checkpoint, path)
    theirs = checkpoint["hyper_parameters"]
    settings = {**theirs["net"], "d_vocab": theirs["d_vocab"]}
    step = checkpoint.get("global_step")
    step = step if type(step) is int else None
    reference = _reference(uri, path, module.net, *_tokenizer_beside(path), settings, sha256=digest, step=step)
    return replace(reference, labels=tuple(theirs["labels"])) if "labels" in theirs else reference


def _load_saved(uri: str, path: Path, pinned: str | None = None) -> Reference:
    net, settings = saved.read_net(path)
    return _reference(uri, path, net, *_tokenizer_beside(path), settings, sha256=sha256_of(path), pinned=pinned)


def _load_pretrained(uri: str) -> Reference:
    place, commit = pretrained.folder_of(uri)
    pinned = f"hf:{place.resolve()}" if commit is None else f"{uri.partition('@')[0]}@{commit}"
    if saved.holds_net(place / "model.safetensors"):
        return _load_saved(uri, place / "model.safetensors", pinned)
    load_it = gguf.load_file if place.is_file() else pretrained.load_folder
    model, tokenizer, file, digest = load_it(place, uri)
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
    """The file, or the folder of a pretrained model, that `uri` names, as for `load`.

    Raises:
        ValueError: the URI is of no supported kind, or there is no such run, step or file.
    """
    if uri in ("init", "previous"):
        raise ValueError(
            f"reference {uri!r} is the run's own past, which only the tracker can take while the run trains: write it"
            f" in references=[...]; to load a model from disk give {SUPPORTED}"
        )
    if uri.startswith(FOREIGN):
        look_up = {"hf": pretrained.folder_of, "tl": toys.folder_of, "wandb": artifacts.file_of}
        return look_up[uri.partition(":")[0]](uri)[0]
    if uri.endswith(FILES):
        path = Path(uri)
        if not path.is_file():
            raise ValueError(f"reference {uri!r}: there is no file {path.absolute()}{_nearest(path.name, path.parent)}")
        return path
    name, _, step = uri.partition("@")
    folder = Path(runs_dir) / name.removeprefix("runs/") if name.startswith("runs/") else Path(name)
    if folder.is_file():
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} is a file, and no {' or '.join(FILES)}; a reference is {SUPPORTED}"
        )
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
        raise ValueError(
            f"reference {uri!r}: no checkpoint of step {step!r} in {folder.absolute()}; it has {there}; "
            "type one of those, or train such a run with checkpoints.keep=all or another schedule.every"
        )
    return steps[int(step)]


def steps_of(folder: Path) -> dict[int, Path]:
    """The checkpoints that the schedule left in the folder of a run, by step."""
    found = {path.stem.removeprefix("step_"): path for path in (folder / "checkpoints").glob("step_*.ckpt")}
    return {int(step): path for step, path in found.items() if step.isdecimal()}


def _nearest(name: str, folder: Path) -> str:
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(name, there, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _tokenizer_beside(path: Path) -> tuple[Tokenizer, Path] | tuple[None, None]:
    """The tokenizer of the run whose checkpoints folder holds `path`, and its file."""
    for folder in (path.absolute().parent.parent, path.absolute().parent):
        file = folder / "tokenizer.json"
        if file.is_file():
            _check_tokenizer_file(file)
            return read_tokenizer(file), file
    return None, None


def _check_tokenizer_file(file: Path) -> None:
    """Compare the tokenizer of a run with the hash that the run noted; a tokenizer of another origin has none."""
    notes = file.with_name("provenance.json")
    if notes.is_file():
        try:
            noted = read_json(notes)["data"]["tokenizer_sha256"]
        except (ValueError, KeyError, TypeError):
            return
        if noted != sha256_of(file):
            raise ValueError(
                f"the tokenizer {file} has changed since its run began (see {notes}); put a copy of it back"
            )


def _shown(path: str) -> str:
    """A path as one would type it: from here, where it is under this folder."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
