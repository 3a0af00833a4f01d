"""Sites: names for the points of a forward pass at which two models are compared.

A site is named as TransformerLens names it, without `hook_`: `embed`, `blocks.3.resid_post`, `ln_final`. A table per
architecture says at which module each site is read: our own models (and what shares their module names), GPT-2,
GPT-NeoX, Llama and its kin, BERT. In any other model, and beside the names of the table, a module path is itself a
site: `backbone.layer1` (what the module returns), or with the side said, `backbone.layer1.input`,
`backbone.layer1.output`.

`resid_post` is always the residual stream as the next block reads it, before any final norm: Hugging Face's last hidden
state is not that, it has passed the final norm. In BERT, whose blocks end with their LayerNorm, the stream is read
after that LayerNorm, and `resid_mid` likewise.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from dissimilarity.capture.architectures import ARCHITECTURES, Architecture, ModulePoint, Side

LOGITS = "logits"
"""What the model returns, in any model: the site of measures of outputs."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def named_modules(model: nn.Module) -> dict[str, str]:
    """Map the path of every module as it reads without wrappers (compile, FSDP, activation checkpointing) to its path.

    A wrapper and what it wraps read the same; the inner one counts, since what it returns is the tensor that the model
    itself made.
    """
    paths = {}
    for path, _ in model.named_modules():
        paths[".".join(part for part in path.split(".") if part not in WRAPPERS)] = path
    return paths


def site_table(model: nn.Module) -> dict[str, ModulePoint]:
    """Return every named site of the model and where it is read, in depth order; empty if its architecture is unknown.

    The blocks are found whatever holds them (a LightningModule's `net`, a `...ForCausalLM`). Where a model holds
    several networks, their sites are told apart by the path before them: `net.blocks.0.resid_post`,
    `teacher.blocks.0.resid_post`.
    """
    paths = named_modules(model)
    networks = _networks(paths)
    table = {}
    for prefix, architecture in networks.items():
        label = prefix if len(networks) > 1 else ""
        for site, (path, side) in _expand(architecture, prefix, paths):
            actual = paths.get(prefix + path)
            if actual is not None and _exists(model, site, prefix + path, paths, architecture):
                table[label + site] = ModulePoint(actual, side)
    return table


def _networks(paths: dict[str, str]) -> dict[str, Architecture]:
    """Find the known networks, none inside another's blocks: the path before the list of blocks -> architecture."""
    found = {}
    for path in paths:
        for architecture in ARCHITECTURES:
            prefix = path.removesuffix(architecture.blocks)
            if not (path.endswith(architecture.blocks) and (prefix == "" or prefix.endswith("."))):
                continue
            complete = all(prefix + need in paths for need in (f"{architecture.blocks}.0", *architecture.needs))
            inside = any(path.startswith(f"{outer}{known.blocks}.") for outer, known in found.items())
            if complete and not inside and not any(prefix + path in paths for path in architecture.excludes):
                found.setdefault(prefix, architecture)
    return found


def _expand(architecture: Architecture, prefix: str, paths: dict[str, str]) -> list[tuple[str, tuple[str, Side]]]:
    """Return (site, (module path, side)) with the numbers of the blocks filled in, in depth order."""
    patterns = list(architecture.sites.items())
    in_blocks = [index for index, (site, _) in enumerate(patterns) if "{i}" in site]
    first, last = in_blocks[0], in_blocks[-1]
    expanded = patterns[:first]
    layer = 0
    while f"{prefix}{architecture.blocks}.{layer}" in paths:
        for site, (path, side) in patterns[first : last + 1]:
            expanded.append((site.replace("{i}", str(layer)), (path.replace("{i}", str(layer)), side)))
        layer += 1
    return expanded + patterns[last + 1 :]


def _exists(model: nn.Module, site: str, path: str, paths: dict[str, str], architecture: Architecture) -> bool:
    """Whether a site whose module is there means what its name says in this very model."""
    if site.endswith("mlp.mid"):
        return path.removesuffix("act") + "ln" in paths
    if re.sub(r"\d+", "{i}", site, count=1) in architecture.sequential_only:
        block = model.get_submodule(paths[path.rsplit(".", 1)[0]])
        config = getattr(block, "cfg", None)
        says_so = ((block, "use_parallel_residual"), (block, "parallel"), (config, "parallel_attn_mlp"))
        return not any(getattr(owner, name, False) for owner, name in says_so)
    return True


def locate(model: nn.Module, sites: Iterable[str]) -> dict[str, ModulePoint]:
    """Return where each site is read: a name of the model's table, or a module path with or without its side.

    Raises ValueError, listing what the model has, for a site that it does not have.
    """
    table, paths = site_table(model), named_modules(model)
    points = {}
    for site in sites:
        point = table.get(site) or _module_point(site, paths)
        if point is None and site == LOGITS:
            point = ModulePoint("", "output")
        if point is None:
            raise ValueError(_not_found(site, table, paths))
        points[site] = point
    return points


def _module_point(site: str, paths: dict[str, str]) -> ModulePoint | None:
    """Read a site as a module path; a module that is itself called `output` comes before the output of its parent."""
    if site in paths:
        return ModulePoint(paths[site], "output")
    path, _, side = site.rpartition(".")
    if path in paths and path and side in ("input", "output"):
        return ModulePoint(paths[path], side)
    return None


def resolve(model: nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """Return the sites of the model that match a glob or any of several, each once, in depth order.

    A pattern is matched against the names of the model's table (`*` stands for any text, so `blocks.*` is every site of
    every block). One that matches none of them is matched against module paths, where `*` stays within one part of the
    path, so that `layers.*` is the layers and not all that is inside them; a side (`.input`, `.output`) may follow.
    Sites of the table come first, module paths after them in the order of definition.

    Raises ValueError, listing what the model has, if a pattern matches nothing.
    """
    table, paths = site_table(model), named_modules(model)
    chosen_sites, chosen_modules = set(), set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = [site for site in table if fnmatchcase(site, pattern)]
        modules = [] if matching else _matching_modules(pattern, paths)
        if not modules and pattern == LOGITS:
            modules = [LOGITS]
        if not matching and not modules:
            raise ValueError(_not_found(pattern, table, paths))
        chosen_sites.update(matching)
        chosen_modules.update(modules)
    order = {path: index for index, path in enumerate(paths)}
    by_definition = sorted(
        chosen_modules, key=lambda site: (order.get(site, order.get(site.rpartition(".")[0], 0)), site)
    )
    return [site for site in table if site in chosen_sites] + by_definition


def _matching_modules(pattern: str, paths: dict[str, str]) -> list[str]:
    """Return the sites, module paths with the side that the pattern names, that match the pattern part by part."""
    matching = [path for path in paths if path and _matches_by_part(path, pattern)]
    stem, _, side = pattern.rpartition(".")
    if not matching and side in ("input", "output"):
        matching = [f"{path}.{side}" for path in paths if path and _matches_by_part(path, stem)]
    return matching


def _matches_by_part(path: str, pattern: str) -> bool:
    """Match a dotted path with a dotted glob of as many parts."""
    names, globs = path.split("."), pattern.split(".")
    return len(names) == len(globs) and all(fnmatchcase(name, glob) for name, glob in zip(names, globs, strict=True))


def _not_found(wanted: str, table: dict[str, ModulePoint], paths: dict[str, str]) -> str:
    """Say that a site is not there and what is."""
    if table:
        return f"no site of the model matches {wanted!r}; it has {describe(table)}, and every module path is a site too"
    return (
        f"no site of the model matches {wanted!r}; its architecture is none of those with named sites, so give module"
        f" paths (optionally with .input or .output); it has {describe([path for path in paths if path])}"
    )


def describe(sites: Iterable[str], limit: int = 16) -> str:
    """List sites in one short line: `embed, blocks.{0-5}.resid_post, ln_final`; at most `limit` kinds, then a count."""
    layers: dict[str, list[int]] = {}
    for site in sites:
        kind, layer = split_layer(site)
        layers.setdefault(kind, []).extend([] if layer is None else [layer])
    texts = []
    for kind, numbers in layers.items():
        span = f"{{{min(numbers)}-{max(numbers)}}}" if len(numbers) > 1 else str(numbers[0]) if numbers else ""
        texts.append(kind.replace("{}", span))
    more = f", and {len(texts) - limit} kinds more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def split_layer(site: str) -> tuple[str, int | None]:
    """Split a site into kind and layer: `blocks.3.mlp.pre` -> (`blocks.{}.mlp.pre`, 3); `embed` -> (`embed`, None)."""
    parts = site.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join([*parts[:index], "{}", *parts[index + 1 :]]), int(part)
    return site, None


def matched_pairs(sites_a: Sequence[str], sites_b: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each site of a with the site of b of the same kind at the nearest relative depth, in the order of a.

    Depth is counted among the sites given: the i-th of L layers meets the round(i (L' - 1) / (L - 1))-th of L', halves
    going deeper; a single layer meets the last. A site without a layer (`embed`, `ln_final`) meets its namesake. A site
    whose kind b lacks is left out.

    Raises ValueError, listing the sites of both, if no site of a has a partner.
    """
    layers_a, layers_b = _by_kind(sites_a), _by_kind(sites_b)
    pairs = []
    for site in sites_a:
        kind, _ = split_layer(site)
        own, others = layers_a[kind], layers_b.get(kind)
        if others:
            last, last_other = len(own) - 1, len(others) - 1
            depth = (2 * own.index(site) * last_other + last) // (2 * last) if last else last_other
            pairs.append((site, others[depth]))
    if not pairs:
        raise ValueError(
            f"no site in common: one model has {describe(sites_a) or 'none'}, the other {describe(sites_b) or 'none'};"
            " choose `sites` that exist in both"
        )
    return pairs


def _by_kind(sites: Sequence[str]) -> dict[str, list[str]]:
    """Group sites by kind, each group from the first layer to the last."""
    groups: dict[str, list[str]] = {}
    for site in sorted(dict.fromkeys(sites), key=lambda site: split_layer(site)[1] or 0):
        groups.setdefault(split_layer(site)[0], []).append(site)
    return groups
