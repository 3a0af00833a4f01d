"""The networks inside a model, each with its residual stream, found once per model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from weakref import WeakKeyDictionary

from torch import nn

from dissimilarity.capture.parts import Parts
from dissimilarity.capture.points import ModulePoint, is_list_of_blocks, named_modules
from dissimilarity.capture.sharding import is_gathered
from dissimilarity.capture.streams import Block, Stream, streams_of
from dissimilarity.capture.trial import Failure, Trial, trial


@dataclass
class Networks:
    """What is known of a model's networks.

    Attributes:
        structure: its modules.
        lengths: numbers of tokens per sequence that its networks may want.
        streams: their streams, by what comes before the names of their sites.
        failures: networks around lists of blocks that ran on no tokens.
    """

    structure: object
    lengths: tuple[int, ...]
    streams: dict[str, Stream]
    failures: list[Failure]


_known: WeakKeyDictionary[nn.Module, Networks] = WeakKeyDictionary()


def networks_of(model: nn.Module, length: int | None = None) -> dict[str, Stream]:
    """Return the streams of a model's networks, with paths in the model, by what comes before the names of their sites.

    That is nothing if there is one network, and otherwise its path inside the module around all of them: `teacher.`,
    `decoder.`, whatever wraps the model. The first call runs each network a few
    times on a handful of random tokens, which leaves no trace in it; later calls remember, until modules change.

    Args:
        model: the model.
        length: tokens per sequence of what it will read, for one that takes no other number.
    """
    return _networks(model, length).streams


def failures_of(model: nn.Module) -> list[Failure]:
    """Return the networks of a model that hold lists of blocks and ran on no tokens, so that they have no stream."""
    return _networks(model, None).failures


def _networks(model: nn.Module, length: int | None) -> Networks:
    actual = named_modules(model)
    by_path = dict(model.named_modules())
    modules = {path: by_path[actual[path]] for path in actual}
    structure = tuple((path, id(module)) for path, module in modules.items())
    known = _known.get(model)
    before = () if known is None else known.lengths
    lengths = before if length is None or length in before else (*before, length)
    is_complete = known is not None and bool(known.streams) and not known.failures
    if known is None or known.structure != structure or (lengths != before and not is_complete):
        streams, failures = _streams(modules, lengths)
        by_label = dict(zip(_labels(streams), streams, strict=True))
        known = _known[model] = Networks(structure, lengths, by_label, failures)
    known.lengths = lengths
    return known


def _labels(streams: list[Stream]) -> list[str]:
    """Return what tells the sites of each network from those of the others."""
    paths = [stream.path.split(".")[:-1] for stream in streams]
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    return [".".join([*path[shared:], ""]) for path in paths]


def _streams(modules: dict[str, nn.Module], lengths: Sequence[int]) -> tuple[list[Stream], list[Failure]]:
    """Return the streams of all networks, and those that have none because they do not run.

    The networks are the smallest modules around blocks that run on tokens.
    """
    streams: list[Stream] = []
    failures: dict[str, Failure] = {}
    trials: dict[str, Trial | Failure | None] = {}
    streams_by_name: dict[str, list[Stream]] = {}
    for path, module in modules.items():
        if not is_list_of_blocks(path, module) or any(f"{path}.".startswith(f"{s.path}.") for s in streams):
            continue
        around = [name for name in _around(path, modules) if not _is_in_shard(name, modules)]
        for name in around:
            if name not in trials:
                inside = {inner: part for inner, part in modules.items() if _is_inside(inner, name)}
                trials[name], streams_by_name[name] = _tried(modules[name], inside, lengths)
            if matching := [stream for stream in streams_by_name[name] if stream.path == path]:
                streams += matching
                break
        else:
            failures |= {name: tried for name in around if isinstance(tried := trials[name], Failure)}
            has_run = any(isinstance(trials[name], Trial) for name in around)
            runs = not any(isinstance(block, nn.ModuleList) for block in module.children())
            if path.rpartition(".")[2] == "blocks" and runs and not has_run:
                streams.append(_untried(path, modules))
    return streams, list(failures.values())


def _tried(
    network: nn.Module, modules: dict[str, nn.Module], lengths: Sequence[int]
) -> tuple[Trial | Failure | None, list[Stream]]:
    """Return a trial of a network and its streams: on a few tokens, or on as many as it will read."""
    tried = trial(network, modules, lengths)
    streams = streams_of(tried) if isinstance(tried, Trial) else []
    if isinstance(tried, Trial) and lengths and not streams:  # it may bring its input to one length
        longer = trial(network, modules, lengths, short=False)
        return tried, streams_of(longer) if isinstance(longer, Trial) else []
    return tried, streams


def _around(path: str, modules: dict[str, nn.Module]) -> Iterator[str]:
    """Yield the modules around a list of blocks, the smallest first, but encoders only with their decoders."""
    names = [path]
    while names[-1]:
        names.append(names[-1].rpartition(".")[0])
    around = [name for name in names if not isinstance(modules[name], nn.ModuleList)]
    pairs = [name for name in around if getattr(getattr(modules[name], "config", None), "is_encoder_decoder", False)]
    yield from reversed(pairs)
    yield from (name for name in around if name not in pairs)


def _is_inside(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}." if name else "")


def _is_in_shard(path: str, modules: dict[str, nn.Module]) -> bool:
    """Return whether a module around this one has to run first."""
    return any(is_gathered(modules[name]) for name in modules if name != path and _is_inside(path, name))


def _untried(path: str, modules: dict[str, nn.Module]) -> Stream:
    """Return the stream of blocks that do not run on tokens alone, which are taken to run in order.

    The stream is what the next block reads, or the norm after the last one: a block may return only what it adds.
    """
    prefix, names = path.removesuffix("blocks"), [f"{path}.{name}" for name, _ in modules[path].named_children()]
    embed, final = (prefix + name if prefix + name in modules else None for name in ("embed", "ln_final"))
    blocks = []
    for name, following in zip(names, [*names[1:], final], strict=True):
        after = ModulePoint(name, "output") if following is None else ModulePoint(following, "input")
        blocks.append(Block(name, Parts(), {"resid_pre": ModulePoint(name, "input"), "resid_post": after}))
    at_embed, at_final = (None if name is None else ModulePoint(name, "output") for name in (embed, final))
    return Stream(path, blocks, at_embed, at_final)
