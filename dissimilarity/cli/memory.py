"""Foresee the memory that a comparison takes, from the headers of the files, before anything is loaded."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dissimilarity.loading.config import weights_in
from dissimilarity.loading.untrusted import read_json
from dissimilarity.probe.together import TOKENS_PER_BATCH, TOKENS_PER_PASS

WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configs of transformers call the width and the number of blocks."""
GGUF_GROWTH = 8
"""Size of weights in float32 over that of a GGUF file, whose weights have about four bits."""
SINGLE, DOUBLE = 4, 8
"""Bytes of a number."""
COPIES = 4
"""Activations of a block at one time: what it reads, what it returns, and both in the order of the probe set."""
MATRICES = 12
"""Matrices of d x d numbers that the measures of one pair of sites hold at most."""
LIBRARIES = 500_000_000
"""Bytes that torch and the libraries for models take."""
BLOCK = re.compile(r"^(.*?\.\d+)\.")
CGROUPS = {"0::": ("memory.max", "memory.current"), "memory:": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
"""Files with the limit and the use of a container, in version 2 and version 1, by its kind in /proc/self/cgroup."""


@dataclass(frozen=True)
class Size:
    """The sizes of a model, as its files tell them.

    Attributes:
        weights: numbers in all weights.
        largest: numbers in the weights of the largest block, or of the embedding.
        width: features of the stream; 0 if unknown.
        depth: number of blocks; 0 if unknown.
        vocabulary: number of tokens; 0 if unknown.
    """

    weights: int
    largest: int
    width: int = 0
    depth: int = 0
    vocabulary: int = 0


def size_of(place: Path) -> Size:
    """Return the sizes of a model, in a folder or in a GGUF file."""
    if place.is_file():
        numbers = GGUF_GROWTH * place.stat().st_size // SINGLE
        return Size(numbers, numbers)
    parts: dict[str, int] = {}
    for path in weights_in(place):
        if path.suffix != ".safetensors":
            parts[path.name] = path.stat().st_size // SINGLE
            continue
        for name, shape in shapes_in(path).items():
            block = BLOCK.match(name)
            part = block[1] if block else name
            parts[part] = parts.get(part, 0) + math.prod(shape)
    config = read_json(place / "config.json") if (place / "config.json").is_file() else {}
    config = config.get("text_config") or config

    def number(*names: str) -> int:
        return next((config[name] for name in names if type(config.get(name)) is int), 0)

    sizes = number(*WIDTHS), number(*DEPTHS), number("vocab_size")
    return Size(sum(parts.values()), max(parts.values(), default=0), *sizes)


def shapes_in(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the weights in a safetensors file, by their names.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: it is damaged ({error}); copy it again") from error


def memory_of_all(sizes: Sequence[Size], tokens: int, matched: bool) -> dict[str, int]:
    """Return the bytes that a comparison takes of models that are in memory, by what takes them."""
    subtracted = len({(size.width, size.depth) for size in sizes}) == 1 and all(size.weights for size in sizes)
    weights = {
        "libraries": LIBRARIES,
        "weights in float32": SINGLE * sum(size.weights for size in sizes),
        "one of them in float64, to measure rounding": DOUBLE * max(size.weights for size in sizes) * subtracted,
    }
    if matched:  # which run in step
        return weights | memory_of_a_block(sizes, tokens)
    batch = min(tokens, TOKENS_PER_BATCH)
    (a, b), (depth_a, depth_b) = (min(size.width, tokens) for size in sizes), (size.depth for size in sizes)
    sums = 2 * depth_a * depth_b * a * b + sum(size.depth * size.width**2 for size in sizes)
    return weights | {
        "activations": SINGLE * batch * sum(size.width * size.depth + size.vocabulary for size in sizes),
        "sums over pairs of layers": DOUBLE * sums,
    }


def memory_of_a_block(sizes: Sequence[Size], tokens: int) -> dict[str, int]:
    """Return the bytes that the activations of one block take, and what is computed of them, by what takes them."""
    width = max(min(size.width, tokens) for size in sizes)
    return {
        "activations": SINGLE
        * sum(COPIES * tokens * size.width + 2 * min(tokens, TOKENS_PER_PASS) * size.vocabulary for size in sizes),
        "sums of a pair of layers": DOUBLE * MATRICES * width**2,
    }


def memory_of_blocks(sizes: Sequence[Size], tokens: int) -> dict[str, int]:
    """Return the bytes that a comparison block by block takes, by what takes them."""
    # that of each model, and one of them in float64, to measure rounding
    blocks = SINGLE * sum(size.largest for size in sizes) + DOUBLE * max(size.largest for size in sizes)
    return {"libraries": LIBRARIES, "blocks": blocks} | memory_of_a_block(sizes, tokens)


def check_memory(sizes: Sequence[Size], tokens: int, matched: bool, block_by_block: bool) -> None:
    """Check that a comparison fits into the memory that is free.

    Args:
        sizes: those of the two sides; none of saved activations.
        tokens: tokens that models read.
        matched: whether only sites at equal depth are compared.
        block_by_block: whether models run block by block.

    Raises:
        ValueError: it does not; says what is needed, what is free, and what to type.
    """
    have = available_memory()
    if have is None or not sizes:
        return
    both = sizes if len(sizes) > 1 else [*sizes, Size(0, 0, sizes[0].width, sizes[0].depth)]
    whole, blocks = memory_of_all(both, tokens, matched), memory_of_blocks(both, tokens)
    need = blocks if block_by_block else whole
    if sum(need.values()) <= have:
        return
    listed = ", ".join(f"{name} {_gb(size)}" for name, size in need.items() if size)
    if block_by_block:
        instead = f"type a smaller number of --sequences; {tokens} tokens are read now"
    elif sum(blocks.values()) <= have:
        instead = f"type --block-by-block, which takes about {_gb(sum(blocks.values()))}"
    elif not matched and sum(memory_of_all(both, tokens, True).values()) <= have:
        instead = "type --pairs matched"
    else:
        instead = "type --block-by-block with a small number of --sequences"
    raise ValueError(
        f"this comparison takes about {_gb(sum(need.values()))} of memory ({listed}), and {_gb(have)} are free; "
        f"{instead}"
    )


def available_memory() -> int | None:
    """Return the bytes of memory that can be used without swapping; None where the system does not say."""
    free = [_free_of_machine(), _free_of_process(), *_free_of_containers()]
    return min((size for size in free if size is not None), default=None)


def _free_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return 1024 * int(sizes["MemAvailable"].split()[0]) if "MemAvailable" in sizes else None


def _free_of_process() -> int | None:
    """Return what `ulimit -v` leaves; None without that limit."""
    try:
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return None
    return None if limit == resource.RLIM_INFINITY else max(0, limit - used)


def _free_of_containers() -> Iterator[int]:
    """Yield the memory that the limits of the containers around this process leave."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        for kind, (limit, used) in CGROUPS.items():
            if kind not in line:
                continue
            root = Path("/sys/fs/cgroup") / kind.strip("0:")
            folder = root / line.rpartition(":")[2].strip("/")
            for around in (folder, *folder.parents):
                if not around.is_relative_to(root):
                    break
                free = free_of_container(around, limit, used)
                if free is not None:
                    yield free


def free_of_container(folder: Path, limit: str, used: str) -> int | None:
    """Return the memory that the limit of a container leaves; None without a limit.

    Args:
        folder: its folder below /sys/fs/cgroup.
        limit: name of the file with its limit.
        used: name of the file with its use.
    """
    try:
        free = int((folder / limit).read_text()) - int((folder / used).read_text())
        return max(0, free + _cached(folder / "memory.stat"))
    except (OSError, ValueError):  # no such folder inside of the container, or a limit of "max"
        return None


def _cached(statistics: Path) -> int:
    """Return the bytes of files in memory that a container gives back when it needs them."""
    values = dict(line.split() for line in statistics.read_text().splitlines())
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
