"""Sites: names for the points of a forward pass at which two models are compared.

A site has its TransformerLens name without `hook_`: `embed`, `blocks.3.resid_post`, `ln_final`. A model has a name if
what it computes agrees with the name's meaning, which a trial on a few random tokens decides (see `networks`). In every
model a module path is a site too: `backbone.layer1` (the module's result), or with an explicit side
`backbone.layer1.input`, `backbone.layer1.output`.

`resid_post` is always the residual stream as the next block reads it, before any final norm. The last hidden state of
Hugging Face models has passed the final norm, so it is a different site.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from dissimilarity.capture.networks import failures_of, networks_of
from dissimilarity.capture.offloaded import has_no_values
from dissimilarity.capture.points import ModulePoint, named_modules
from dissimilarity.capture.site_names import LOGITS, by_kind, describe, split_layer
from dissimilarity.capture.trial import Trial, trial

PART = re.compile(r"^(encoder|decoder)\.")
"""What begins the sites of a model that has both."""


def site_table(model: nn.Module, length: int | None = None) -> dict[str, ModulePoint]:
    """Return every named site of a model and where it is read, in depth order; empty if none is found.

    The blocks are found inside any wrapper (a LightningModule's `net`, a `...ForCausalLM`). If a model holds several
    networks, their sites carry the path that tells them apart: `net.blocks.0.resid_post` and
    `teacher.blocks.0.resid_post`.

    Args:
        model: the model.
        length: tokens per sequence of what it will read, for a model that takes no other number.
    """
    actual, table = named_modules(model), {}
    for label, stream in networks_of(model, length).items():
        sites = {"embed": stream.embed}
        for number, block in enumerate(stream.blocks):
            sites |= {f"blocks.{number}.{site}": point for site, point in block.sites.items()}
        for site, point in {**sites, "ln_final": stream.ln_final}.items():
            if point is not None:
                table[label + site] = ModulePoint(actual[point.module], point.side)
    return table


def locate(model: nn.Module, sites: Iterable[str]) -> dict[str, ModulePoint]:
    """Return where each site is read.

    Args:
        model: the model.
        sites: names of the model's table, or module paths with or without a side.

    Raises:
        ValueError: the model does not have a site. The message lists what it has.
    """
    table, paths = site_table(model), named_modules(model)
    points = {}
    for site in sites:
        point = table.get(site) or _module_point(site, paths)
        if point is None and site == LOGITS:
            point = ModulePoint("", "output")
        if point is None:
            raise ValueError(_not_found(model, site, table, paths))
        points[site] = point
    return points


def _module_point(site: str, paths: dict[str, str]) -> ModulePoint | None:
    """Return where a site that is a module path is read; None if there is no such module.

    A module that is itself called `output` takes precedence over the output of its parent.
    """
    if site in paths:
        return ModulePoint(paths[site], "output")
    path, _, side = site.rpartition(".")
    if path in paths and path and side in ("input", "output"):
        return ModulePoint(paths[path], side)
    return None


def resolve(model: nn.Module, patterns: str | Sequence[str], length: int | None = None) -> list[str]:
    """Return the sites of a model that match a glob or any of several, each once, in depth order.

    A pattern is first matched with the names of the model's table, where `*` stands for any text: `blocks.*` is every
    site of every block, and of a model with an encoder and a decoder, of the blocks of both. If none matches, the
    pattern is matched with module paths, where `*` stays within one part of the path: `layers.*` is the layers, not
    everything inside them. A side (`.input`, `.output`) may follow. Sites of the table come first, then module paths in
    the order of definition.

    A pattern may have alternatives, `blocks.*.resid_post|encoder.layers.*`, for models of which one has no named sites:
    the first that matches counts.

    Args:
        model: the model.
        patterns: globs or names.
        length: as in `site_table`.

    Raises:
        ValueError: a pattern matches nothing, and the message lists what the model has; there is no pattern; or a
            model that is to read something has weights without values.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> resolve(model, ["0", "1.input"])
        ['0', '1.input']
    """
    if length is not None and has_no_values(model):  # names alone need no values
        raise ValueError(
            f"{type(model).__name__} has weights on the meta device, which hold no values; load them first, for "
            "example with model.to_empty(device='cpu') and model.load_state_dict(weights)"
        )
    table, paths = site_table(model, length), named_modules(model)
    table_sites, module_sites = set(), set()
    for pattern in as_patterns(patterns):
        for alternative in pattern.split("|"):
            matching = [site for site in table if fnmatchcase(site, alternative)]
            matching = matching or [site for site in table if fnmatchcase(PART.sub("", site), alternative)]
            modules = [] if matching else _matching_modules(alternative, paths)
            if not modules and alternative == LOGITS:
                modules = [LOGITS]
            if matching or modules:
                break
        else:
            raise ValueError(_not_found(model, pattern, table, paths))
        table_sites.update(matching)
        module_sites.update(modules)
    order = {path: index for index, path in enumerate(paths)}
    by_definition = sorted(
        module_sites, key=lambda site: (order.get(site, order.get(site.rpartition(".")[0], 0)), site)
    )
    return [site for site in table if site in table_sites] + by_definition


def as_patterns(patterns: str | Sequence[str]) -> list[str]:
    """Return one glob, or several, as a list.

    Raises:
        ValueError: something else, or none.

    Examples:
        >>> as_patterns("blocks.*"), as_patterns(("embed", "ln_final"))
        (['blocks.*'], ['embed', 'ln_final'])
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns) if isinstance(patterns, Sequence) else []
    if not listed or not all(isinstance(pattern, str) and pattern for pattern in listed):
        raise ValueError(
            f"expected sites as a glob such as 'blocks.*.resid_post', or several in a list, found {patterns!r}"
        )
    return listed


def _matching_modules(pattern: str, paths: dict[str, str]) -> list[str]:
    """Return the module paths that match the pattern part by part, with the side that the pattern names."""
    matching = [path for path in paths if path and _matches_by_part(path, pattern)]
    stem, _, side = pattern.rpartition(".")
    if not matching and side in ("input", "output"):
        matching = [f"{path}.{side}" for path in paths if path and _matches_by_part(path, stem)]
    return matching


def _matches_by_part(path: str, pattern: str) -> bool:
    """Return whether a dotted path matches a dotted glob with the same number of parts."""
    names, globs = path.split("."), pattern.split(".")
    return len(names) == len(globs) and all(
        name == glob or fnmatchcase(name, glob) for name, glob in zip(names, globs, strict=True)
    )


def _not_found(model: nn.Module, pattern: str, table: dict[str, ModulePoint], paths: dict[str, str]) -> str:
    """Return the message for a site that does not exist, with those that do."""
    start = f"no site of the model matches {pattern!r}; "
    if table:
        return f"{start}it has {describe(table)}, and every module path is a site too"
    example = _glob_of_layers(model, paths)
    failures = failures_of(model)
    reason = f"{failures[-1]}" if failures else "no list of blocks in it passes on one stream (batch, pos, d)"
    length = "if it takes another number, pass such a probe set, and else " if failures else ""
    return (
        f"{start}it has no named sites here, because {reason}, so {length}"
        f"give module paths (optionally with .input or .output): sites='{example}' for this model alone, or "
        f"sites='{pattern}|{example}' beside models that have named sites; it has "
        f"{describe([path for path in paths if path])}"
    )


def _glob_of_layers(model: nn.Module, paths: dict[str, str]) -> str:
    """Return a glob of the outermost layers that a model runs, or its first module if there are none."""
    modules = dict(model.named_modules())
    tried = trial(model, {path: modules[actual] for path, actual in paths.items() if path})
    ran = [path for path in paths if path]
    if isinstance(tried, Trial):
        ran = [path for path, call in tried.calls.items() if call.returns is not None]
    kinds = by_kind([path for path in ran if split_layer(path)[1] is not None] or ran)
    return max(kinds, key=lambda kind: (len(kinds[kind]), -kind.count(".")), default="").replace("{}", "*")
