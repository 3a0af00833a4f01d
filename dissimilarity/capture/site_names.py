"""Names of sites: their kind and layer, lists of them in one line, and pairs at equal relative depth.

Nothing here needs torch.
"""

from collections.abc import Iterable, Sequence

LOGITS = "logits"
"""The model's result, in any model: the site of output measures."""
ORDER = ("resid_pre", "attn_out", "resid_mid", "mlp.pre", "mlp.mid", "mlp.post", "mlp_out", "resid_post")
"""The sites of a block, in depth order."""


def describe(sites: Iterable[str], limit: int = 16) -> str:
    """Return sites as one short line, at most `limit` kinds and then a count.

    Examples:
        >>> describe(["embed", *(f"blocks.{layer}.resid_post" for layer in range(6)), "ln_final"])
        'embed, blocks.{0-5}.resid_post, ln_final'
    """
    layers: dict[str, list[int]] = {}
    for site in sites:
        kind, layer = split_layer(site)
        layers.setdefault(kind, []).extend([] if layer is None else [layer])
    texts = []
    for kind, numbers in layers.items():
        span = f"{{{min(numbers)}-{max(numbers)}}}" if len(numbers) > 1 else str(numbers[0]) if numbers else ""
        texts.append(kind.replace("{}", span))
    omitted = f", and {len(texts) - limit} kinds more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + omitted


def split_layer(site: str) -> tuple[str, int | None]:
    """Return the kind and the layer of a site.

    Examples:
        >>> split_layer("blocks.3.mlp.pre"), split_layer("embed")
        (('blocks.{}.mlp.pre', 3), ('embed', None))
    """
    parts = site.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join([*parts[:index], "{}", *parts[index + 1 :]]), int(part)
    return site, None


def site_name(site_a: str, site_b: str) -> str:
    """Return the name of a pair of sites: one name where both are equal.

    Examples:
        >>> site_name("embed", "embed"), site_name("blocks.0.resid_post", "layers.1")
        ('embed', 'blocks.0.resid_post ~ layers.1')
    """
    return site_a if site_a == site_b else f"{site_a} ~ {site_b}"


def matched_pairs(sites_a: Sequence[str], sites_b: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each site of a with the site of b of the same kind at the nearest relative depth, in the order of a.

    Depth counts among the given sites: layer i of L is paired with layer round(i (L' - 1) / (L - 1)) of L', halves
    rounded up. A single layer is paired with the last. A site without a layer (`embed`, `ln_final`) is paired with the
    site of the same name. Sites whose kind b lacks are left out. If each model has sites of one kind, these are
    paired, whatever they are called.

    Args:
        sites_a: sites of one model.
        sites_b: sites of the other.

    Raises:
        ValueError: no site of a has a partner. The message lists the sites of both.

    Examples:
        >>> shallow = [f"blocks.{layer}.resid_post" for layer in range(2)]
        >>> deep = [f"blocks.{layer}.resid_post" for layer in range(4)]
        >>> matched_pairs(shallow, deep)
        [('blocks.0.resid_post', 'blocks.0.resid_post'), ('blocks.1.resid_post', 'blocks.3.resid_post')]
    """
    layers_a, layers_b = by_kind(sites_a), by_kind(sites_b)
    if len(layers_a) == len(layers_b) == 1:
        layers_b = {kind: layers for kind, layers in zip(layers_a, layers_b.values(), strict=True)}
    pairs = []
    for site in sites_a:
        kind, _ = split_layer(site)
        layers, partners = layers_a[kind], layers_b.get(kind)
        if partners:
            last, last_partner = len(layers) - 1, len(partners) - 1
            depth = (2 * layers.index(site) * last_partner + last) // (2 * last) if last else last_partner
            pairs.append((site, partners[depth]))
    if not pairs:
        # the longer one first, because the first that matches counts: blocks.* is also in encoder.blocks.*
        kinds = [min(layers, key=len, default="layers.{}") for layers in (layers_a, layers_b)]
        example = "|".join(kind.replace("{}", "*") for kind in sorted(kinds, key=len, reverse=True))
        raise ValueError(
            f"no site in common: the first model has {describe(sites_a) or 'none'}, the second "
            f"{describe(sites_b) or 'none'}; choose sites that exist in both, or those of each with a bar between: "
            f"'{example}'"
        )
    return pairs


def by_kind(sites: Sequence[str]) -> dict[str, list[str]]:
    """Map each kind to its sites, from the first layer to the last."""
    by_kind: dict[str, list[str]] = {}
    for site in sorted(dict.fromkeys(sites), key=lambda site: split_layer(site)[1] or 0):
        by_kind.setdefault(split_layer(site)[0], []).append(site)
    return by_kind
