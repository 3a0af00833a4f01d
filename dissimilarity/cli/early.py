"""Check what names and files tell of a comparison before torch is loaded, so that a mistake costs no time."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console

from dissimilarity.capture.site_names import ORDER, describe, matched_pairs
from dissimilarity.cli.command import LEAST, LENGTH, OUTPUT_MEASURES, SEQUENCES, measure_names
from dissimilarity.cli.memory import check_memory, shapes_in
from dissimilarity.cli.places import Place, find_place, nearest, told_apart
from dissimilarity.cli.texts import BYTES_PER_TOKEN, is_same, no_tokenizer, packed, pieces, read_text, tokens_in
from dissimilarity.comparison.array_files import (
    IDS,
    Shapes,
    arrays_in,
    check_arrays,
    check_extents,
    check_logits,
    extent_of,
    mapped,
    matching_sites,
)
from dissimilarity.loading import adapters
from dissimilarity.loading.config import check_gguf_file, check_model_folder
from dissimilarity.loading.context import KEYS
from dissimilarity.loading.lora import check_plain
from dissimilarity.loading.places import require_transformers
from dissimilarity.loading.untrusted import read_json, read_tokenizer

DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu|mtia|npu|xla)(:\d+)?")
GPUS = ("nvidia[0-9]*", "nvhost*", "nvmap", "kfd", "dxg")
"""Files in /dev of a machine with a device that torch calls cuda."""
WEIGHTLESS = re.compile(r"[*?\[]|rot|pos|drop|act|norm|pool|emb", re.IGNORECASE)
"""In a name of a module that may have no weights, so that no file tells whether a model has it; or in a glob."""


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Make a folder for results before the work begins; take it back if there are none.

    Raises:
        ValueError: it cannot be made, or nothing can be written into it.
    """
    if folder is None:
        yield
        return
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if folder.is_file():
            raise ValueError(f"--out {folder}: it is a file; give a folder") from error
        raise ValueError(f"--out {folder}: cannot write there ({error.strerror}); give another folder") from error
    try:
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):
                place.rmdir()
        raise


def checked_places(options: argparse.Namespace) -> list[Place]:
    """Return where the two sides are, after checking all that names and files tell.

    Raises:
        ValueError: something on the command line cannot be had, and what to type.
    """
    measures = measure_names()
    if unknown := [name for name in [*options.measures, *dict(options.fail_over)] if name not in measures]:
        raise ValueError(f"there is no measure {', '.join(unknown)}; choose from {', '.join(measures)}")
    if options.block_by_block and options.pairs == "all":
        raise ValueError("--pairs all needs all layers at once, and --block-by-block keeps one; leave one of them out")
    _check_device(options.device)
    expected = {"--text": "a UTF-8 text file", "--tokens": "a .npy file of integers (sequences, positions)"}
    for (option, kind), path in zip(expected.items(), (options.text, options.tokens), strict=True):
        if path is not None and not path.exists():
            raise ValueError(f"{option} {path}: there is no such file{nearest(path) or f'; give {kind}'}")
    if options.text is not None:
        read_text(options.text, LEAST, LENGTH)
    with Console(stderr=True).status("finding the models"):  # which may take a download
        places = told_apart([find_place(argument) for argument in (options.a, options.b)])
    for place in places:
        if not place.is_saved:
            _check_model(place, options)
    shapes = _check_saved([place for place in places if place.is_saved], options)
    _check_reading(places, options, shapes)
    matched = options.pairs == "matched" or (options.pairs is None and options.out is None)
    sizes = [place.size for place in places if place.size is not None]
    check_memory(sizes, _tokens_read(options), matched, options.block_by_block)
    return places


def _check_device(name: str) -> None:
    """Check that a device has a name of one, and that a machine without a GPU is not asked for one."""
    kind = DEVICE.fullmatch(name)
    if kind is None:
        raise ValueError(f"--device {name}: expected cpu, cuda, cuda:1 or mps")
    has_none = sys.platform == "linux" and not any(any(Path("/dev").glob(pattern)) for pattern in GPUS)
    if (kind[1] == "cuda" and has_none) or (kind[1] == "mps" and sys.platform != "darwin"):
        raise ValueError(f"--device {name}: there is no such device here; use cpu")


def _check_saved(places: Sequence[Place], options: argparse.Namespace) -> Shapes:
    """Check that saved activations are there at the sites that are compared, and of the same samples on both sides.

    Returns:
        Their shapes.

    Raises:
        ValueError: a file cannot be read or holds something else, a glob matches no site, logits are missing, or there
            are other numbers of samples.
    """
    sites: list[list[str]] = []
    shapes: list[tuple[str, str, tuple[int, ...]]] = []
    for place in places:
        assert place.path is not None
        arrays = arrays_in(place.path)
        arrays.pop(IDS, None)
        check_arrays(place.argument, arrays)
        named = list(arrays)
        sites.append(named if options.sites is None else matching_sites(place.argument, named, options.sites))
        shapes += [(place.argument, site, array.shape) for site, array in arrays.items()]
        if {*options.measures, *dict(options.fail_over)} & set(OUTPUT_MEASURES):
            check_logits(place.argument, named)
    if len(sites) == 2:
        matched_pairs(*sites)
        check_extents(shapes, *extent_of(shapes))
    return shapes


def _check_model(place: Place, options: argparse.Namespace) -> None:
    """Check that a model is complete, that what loads it is installed, and that globs fit the names of its modules.

    Raises:
        ValueError: one of these is not so.
    """
    if place.path is None:
        return
    if place.path.is_file():
        check_gguf_file(place.path, place.uri)
        return
    if adapters.is_adapter(place.path) and not options.block_by_block and find_spec("peft") is None:
        raise ValueError(f"{place.label} is an adapter and needs peft: pip install 'dissimilarity[hf]'")
    folder = place.folder
    assert folder is not None
    files = check_model_folder(folder, place.uri)
    require_transformers(place.uri)
    if options.block_by_block and files[0].suffix != ".safetensors":
        raise ValueError(
            f"{place.argument}: its weights are pickles, which can only be read whole; save it again as safetensors, "
            "or leave --block-by-block out"
        )
    if options.block_by_block and adapters.is_adapter(place.path):
        check_plain(place.path, place.argument)
    if options.sites and files[0].suffix == ".safetensors" and place.size is not None:
        # whether or not the names in the file begin with that of the body of the model
        modules = {part for path in files for name in shapes_in(path) for part in name.split(".")[:-1][:2]}
        for pattern in options.sites:
            _check_glob(place.label, pattern, place.size.depth, modules)


def _check_glob(label: str, pattern: str, depth: int, modules: set[str]) -> None:
    """Check that a glob may match a named site or a module; only a model that is loaded can say that it does."""
    named = ["embed", *(f"blocks.{layer}.{site}" for layer in range(depth or 1) for site in ORDER), "ln_final"]
    for alternative in pattern.split("|"):
        first = alternative.partition(".")[0]
        may_be_named = any(fnmatchcase(site, alternative) for site in [*named, "logits"])
        is_block = first == "blocks" and "blocks" not in modules and depth
        if may_be_named or (not is_block and (first in modules or WEIGHTLESS.search(first))):
            return
    raise ValueError(
        f"no site of {label} matches {pattern!r}; choose from {describe(named)}, or give the path of a module, "
        f"which begins with {', '.join(sorted(modules)[:8])}"
    )


def _check_reading(places: Sequence[Place], options: argparse.Namespace, shapes: Shapes) -> None:
    """Check what the models are to read: a text, tokens from a file, or nothing for saved activations.

    Raises:
        ValueError: it does not fit the models or the shapes of saved activations, or is too short.
    """
    models = [place for place in places if not place.is_saved]
    check_needed(options, [place.label for place in models], len(places))
    sizes = {place.label: place.size.vocabulary for place in models if place.size is not None}
    vocabularies = {label: size for label, size in sizes.items() if size}
    if options.tokens is not None:
        tokens = tokens_in(options.tokens, vocabularies)
        check_extents(shapes, f"the tokens: {tokens.shape}", *tokens.shape)
        return
    for place in models:
        if place.folder is not None and place.tokenizer is None:
            raise ValueError(no_tokenizer(place.label, vocabularies))
    if models and options.text is not None and all(place.tokenizer is not None for place in models):
        _check_length(models, options)


def check_needed(options: argparse.Namespace, models: Sequence[str], sides: int) -> None:
    """Check that what is given for reading is what the sides need.

    Args:
        options: the command line.
        models: names of the sides that are models.
        sides: how many sides there are.

    Raises:
        ValueError: it is too much or too little.
    """
    names = ("text", "tokens", "sequences", "length")
    unused = [f"--{name}" for name in names if getattr(options, name) is not None]
    if not models and unused:
        raise ValueError(f"both sides are saved activations, so nothing is read; leave out {' and '.join(unused)}")
    if options.tokens is not None and len(unused) > 1:
        others = " and ".join(name for name in unused if name != "--tokens")
        raise ValueError(f"--tokens has all that models read; leave out {others}")
    if options.tokens is None and 0 < len(models) < sides:
        raise ValueError(
            f"{models[0]} has to read the same text as the saved activations: pass its tokens with --tokens FILE.npy"
        )


def _check_length(models: Sequence[Place], options: argparse.Namespace) -> None:
    """Check that a text so short that it might have too few sequences has enough of them.

    Raises:
        ValueError: it has not.
    """
    sequences, length = options.sequences or SEQUENCES, options.length or LENGTH
    _, text, _ = read_text(options.text, sequences, length)
    contexts = [context for place in models if (context := _context(place)) is not None]
    if len(text) > LEAST * length * BYTES_PER_TOKEN or min(contexts, default=length) < length:
        return
    a, b = (read_tokenizer(place.tokenizer) for place in models if place.tokenizer is not None)
    take = packed if is_same(a, b, text) else pieces
    take(text, a, sequences, length)


def _context(place: Place) -> int | None:
    """Return the longest context that the config of a model tells, in tokens; None if it tells none."""
    if place.folder is None:
        return None
    config = read_json(place.folder / "config.json")
    contexts = (config.get(key) for key in KEYS)
    return next((value for value in contexts if type(value) is int), None)


def _tokens_read(options: argparse.Namespace) -> int:
    """Return how many tokens models read at most."""
    if options.tokens is None:
        return (options.sequences or SEQUENCES) * (options.length or LENGTH)
    return mapped(options.tokens).size
