"""Many models compared with each other: each is run once and one at a time, every pair comes from what was kept.

N models take N passes over the probe set, not N^2. Sums over pairs are taken some sites at a time, so that memory is
that of one model, or of the sums of some sites, whatever the number of models and layers.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pyarrow as pa
from jaxtyping import Bool
from torch import Tensor, nn

from dissimilarity.capture.sites import matched_pairs
from dissimilarity.comparison.compare import COLUMNS, compare, ordered
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.comparison.first_component import with_shares
from dissimilarity.comparison.kept import WIDE, Kept, Part, Parts, Spool, held
from dissimilarity.comparison.plan import Layout, Pool, lay_out
from dissimilarity.comparison.saved import Saved, Source, agreed_extent, device_of, open_source, sites_of, stream
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.moments.cross import Pair
from dissimilarity.probe.outliers import NO_CONTROL, Control, norms_of

Couple = tuple[str, str]
Rows = list[dict[str, Any]]


def compare_many(
    models: Mapping[str, Source | Callable[[], nn.Module]],
    tokens: Tensor | None = None,
    sites: str | Sequence[str] | None = None,
    measures: Sequence[Measure] | None = None,
    pairs: Literal["all", "matched"] = "all",
    groups: int = 16,
    pool: Pool = "none",
    positions: int | None = None,
    null: bool = True,
    control: Control = NO_CONTROL,
    couples: Sequence[Couple] | None = None,
    tell: Callable[[str], object] = lambda doing: None,
    mask: Bool[Tensor, "sequences positions"] | None = None,
) -> pa.Table:
    """Every measure at every pair of sites of every two models.

    Args:
        models: label -> what `compare` takes, or a function that loads a module: what it gave is let go before the next
            is called.
        tokens, sites, measures, pairs, groups, pool, positions, null: as for `compare`.
        control: as for `compare`; positions whose norm stands out in any of the models are dropped in all, which takes
            a pass over each beforehand.
        couples: which two are compared, by label; by default each with all that follow. A model may meet itself.
        tell: hears in a few words what is being done.
        mask: as for `compare`.

    Returns:
        the tables of `compare`, couple after couple, with model_a and model_b in front.

    Raises:
        ValueError: as for `compare`, naming the model; no two models, or a couple of a label that there is not.
    """
    couples = list(combinations(models, 2)) if couples is None else list(dict.fromkeys(couples))
    strangers = sorted({label for couple in couples for label in couple} - set(models))
    if strangers or not couples:
        found = f"couples with {', '.join(strangers)}" if strangers else f"{len(models)} and no couple"
        raise ValueError(f"expected two models or more and couples of their labels, found {found}")
    measures = [CKA(), Procrustes()] if measures is None else list(measures)
    saved = {label for label, model in models.items() if not callable(model)}
    files = [couple for couple in couples if saved.issuperset(couple)]
    rows = {}
    if len(files) < len(couples):
        with TemporaryDirectory(prefix="activations-") as folder:
            rest = [couple for couple in couples if couple not in files]
            labels = {label for couple in rest for label in couple}

            def layout_of(extent: Tensor | tuple[int, int]) -> Layout:
                return lay_out(extent, measures, groups, pool, positions, control, mask)

            kept, layout = _captured(
                models, labels, tokens, sites, layout_of, control.drop_top_norm, Path(folder), tell
            )
            rows = _compared(Parts(kept, layout), rest, measures, pairs, null, tell)
    for a, b in files:
        # Nothing has to run for these, and `compare` reads them a part at a time.
        tell(f"{a} and {b}")
        options: Any = (tokens, sites, measures, pairs, groups, pool, positions, null, control, mask)
        rows[a, b] = compare(models[a], models[b], *options).to_pylist()  # pyright: ignore
    named = [{"model_a": a, "model_b": b, **row} for a, b in couples for row in rows[a, b]]
    return pa.table({column: [row[column] for row in named] for column in ("model_a", "model_b", *COLUMNS)})


def _captured(
    models: Mapping[str, Source | Callable[[], nn.Module]],
    labels: Container[str],
    tokens: Tensor | None,
    sites: str | Sequence[str] | None,
    layout_of: Callable[[Tensor | tuple[int, int]], Layout],
    drop_top_norm: int,
    folder: Path,
    tell: Callable[[str], object],
) -> tuple[dict[str, Kept], Layout]:
    """The activations of some models, which are loaded, run and let go one by one."""
    spool, kept, layouts, norms = Spool(folder), {}, [], {}

    def look(label: str, source: nn.Module | Saved, chosen: list[str]) -> None:
        chunks = stream(source, tokens, chosen, layouts[0].for_norms(), device_of(source))
        norms.update({(label, site): of for site, of in norms_of(chunks).items()})

    def keep(label: str, source: nn.Module | Saved, chosen: list[str]) -> None:
        device = device_of(source)
        kept[label] = Kept(chosen, spool.kept(stream(source, tokens, chosen, layouts[0], device)), device)

    def visit(each: Callable[[str, nn.Module | Saved, list[str]], None]) -> None:
        for label, model in models.items():
            if label in labels:
                tell(f"{label} on the probe set")
                source = open_source(model() if _is_loader(model) else model, label)  # pyright: ignore
                layouts.append(layout_of(agreed_extent(source, source, tokens)))
                each(label, source, _sites_of(source, sites, label))
                del source

    if drop_top_norm:
        visit(look)
        layouts[:] = [replace(layouts[0], kept=layouts[0].without_top_norms(norms))]
    visit(keep)
    return kept, layouts[0]


def _is_loader(model: Any) -> bool:
    return callable(model) and not isinstance(model, nn.Module)


def _sites_of(source: nn.Module | Saved, sites: str | Sequence[str] | None, label: str) -> list[str]:
    try:
        return sites_of(source, sites)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def _compared(
    parts: Parts,
    couples: Sequence[Couple],
    measures: Sequence[Measure],
    pairs: str,
    with_null: bool,
    tell: Callable[[str], object],
) -> dict[Couple, Rows]:
    """The rows of each couple, in the order of `compare`."""
    kept, rows = parts.models, {couple: [] for couple in couples}
    chosen = {(a, b): _pairs(kept[a].sites, kept[b].sites, pairs) for a, b in couples}
    inner = [measure for measure in measures if not isinstance(measure, OutputMeasure)]
    for a in dict.fromkeys(a for a, _ in couples):
        partners = [b for first, b in couples if first == a]
        for place, block in enumerate(kept[a].blocks(parts.layout.groups)):
            x = _Meeting(parts(a, block), with_null)
            for b in partners:
                tell(f"{a} and {b}")
                for other_place, others in enumerate(kept[b].blocks(parts.layout.groups)):
                    here = [pair for pair in chosen[a, b] if pair[0] in block and pair[1] in others]
                    first = place == other_place == 0
                    if here or (first and len(inner) < len(measures)):
                        of = measures if first else inner
                        rows[a, b] += x.with_(parts(b, others), here, parts.layout, of)
    return {couple: ordered(found, chosen[couple], measures) for couple, found in rows.items()}


class _Meeting:
    """Some sites of one model, which meets many others: what is made of its rows is kept meanwhile if there is room."""

    def __init__(self, part: Part, with_null: bool) -> None:
        self.part, self.with_null = part, with_null
        wide = sum(4 * rows.numel() for chunk in part.chunks for rows in chunk.rows.values())
        self.kept = [(held(c), held(c, rolled=True) if with_null else None) for c in part.chunks if 2 * wide <= WIDE]

    def chunks(self) -> Iterator[Any]:
        """Each chunk, and the same deranged."""
        yield from self.kept or ((chunk, chunk.deranged() if self.with_null else None) for chunk in self.part)

    def with_(self, other: Part, pairs: Sequence[Pair], layout: Layout, measures: Sequence[Measure]) -> Rows:
        """The rows of pairs of its sites with those of another model."""
        together, null = layout.cross(pairs), layout.cross(pairs, errors=False)
        for (chunk, deranged), chunk_other in zip(self.chunks(), other, strict=True):
            together.add(chunk, chunk_other)
            if deranged is not None:
                null.add(deranged, chunk_other)
        rows = evaluate(
            measures, self.part.side, other.side, together.close(), null.close() if self.with_null else None
        )
        return with_shares(rows, self.part.shares, other.shares)


def _pairs(sites_a: list[str], sites_b: list[str], which: str) -> list[Pair]:
    return [(a, b) for a in sites_a for b in sites_b] if which == "all" else matched_pairs(sites_a, sites_b)
