"""Arguments that no comparison or training could have are refused with one message, which says what is legal."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CKA, compare, compare_many
from dissimilarity.lightning import DissimilarityTracker, StitchingTracker
from dissimilarity.tracking.alerts import Collapse, Move, rules_of
from dissimilarity.tracking.tracker import Tracker

pytestmark = pytest.mark.usefixtures("unchecked")

TOKENS = torch.randint(20, (12, 4), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.layers = nn.Embedding(20, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(self.embed(tokens))


A, B = Net(0), Net(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": -5}, "expected every >= 1, a number of steps, found -5"),
        ({"every": True}, "expected every >= 1, a number of steps, found True"),
        ({"every": 2.5}, "expected every >= 1, a number of steps, found 2.5"),
        ({"heatmap_every": 0}, "expected heatmap_every >= 1"),
        ({"budget": 5.0}, "expected 0 < budget <= 1"),
        ({"budget": True}, "expected 0 < budget <= 1"),
        ({"budget": float("nan")}, "expected 0 < budget <= 1"),
        ({"n_units": True}, "found n_units=True"),
        ({"nulls": True}, "nulls: expected a whole number of rearrangements, 1 or more, found True"),
        ({"tokens_per_step": -1}, "expected tokens_per_step >= 0"),
        ({"measures": []}, "expected one measure or more, found none"),
        ({"references": {"a": A, "b": A}}, "references: a Net is there twice; leave one out"),
        (
            {"references": {"a": "runs/x", "b": "./runs//x/"}},
            "runs//x/ is there twice, also as runs/x",
        ),
        ({"references": ["hf:x", "hf:./x"]}, "hf:./x is there twice, also as hf:x; leave one out"),
        ({"references": {1: A}}, "expected a label such as 'teacher' for each, found 1"),
        ({"references": ""}, "references: expected init, previous, untrained, URIs or modules, found ''"),
        ({"references": [Net]}, "URIs or modules, found the class Net"),
        ({"sites": ["layers.*", ""]}, "expected sites as a glob such as 'blocks.*.resid_post', or several in a list"),
        ({"measures": CKA}, "measures: expected measures such as CKA(), found the class CKA"),
        ({"reference_groups": {"a": [5]}}, "reference_groups.a: expected a list of references, found [5]"),
        ({"channels": {5: "first"}}, "channels: expected sites such as 'blocks.*.resid_post' as keys, found 5"),
        ({"figures": {"formats": "png"}}, "expected figures.formats as a list of some of png, pdf, svg, found 'png'"),
        ({"figures": {"dark": True}}, "expected figures.dark same or different, found True"),
        (
            {"alerts": Move},
            "expected one of the rules nearest, move, collapse, found the class Move; pass names, mappings such as",
        ),
        ({"alerts": b"move"}, "found a bytes; pass names, mappings such as"),
        ({"alerts": ["movd"]}, "alerts: expected one of the rules nearest, move, collapse, found 'movd'"),
        (
            {"alerts": {"rule": "move", "below": 0.1}},
            "alerts: move: unknown key below; expected some of level, stop, by",
        ),
        ({"alerts": [{"rule": "move", "level": True}]}, "move: expected level above 0 and below 1, found True"),
        ({"folder": None}, "expected folder as a path such as 'tracked', found None"),
    ],
)
def test_a_tracker_refuses(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"references": ["init"], "measures": [CKA()], "probe": TOKENS, "folder": tmp_path}
    for tracker in (Tracker, DissimilarityTracker):
        with pytest.raises(ValueError, match=re.escape(message)):
            tracker(**{**usual, **arguments})
    from dissimilarity.huggingface import DissimilarityCallback

    if arguments.get("folder", "") is not None:  # by default it is in that of the Trainer
        with pytest.raises(ValueError, match=re.escape(message)):
            DissimilarityCallback(**{**usual, **arguments})


@pytest.mark.parametrize(("argument", "value"), [("every", 0), ("every", True), ("budget", 0.0), ("formats", "png")])
def test_a_tracker_of_stitches_refuses(argument: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"expected .*{argument}"):
        StitchingTracker(["init"], lambda n: torch.zeros(n, 4, dtype=torch.long), tmp_path, **{argument: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": True}, "expected positions >= 1, a whole number, or None, found True"),
        ({"measures": []}, "expected one measure or more, found none"),
        ({"pairs": "matchd"}, "expected pairs all or matched, found 'matchd'"),
        ({"null": 3}, "expected null True or False, found 3"),
        ({"nulls": True}, "nulls: expected a whole number"),
        ({"n_units": True}, "found n_units=True"),
        ({"sites": []}, "expected sites as a glob such as 'blocks.*.resid_post', or several in a list, found []"),
        ({"control": {"skip": 1}}, "control.skip: unknown key; expected skip_first"),
        ({"channels": {"layers.*": 1}}, "expected channels first, last, or a mapping of sites to these, found 1"),
        ({"mask": "all"}, "expected a boolean mask (sequences, positions), found 'all'"),
    ],
)
def test_comparisons_refuse(arguments: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"sites": "layers.*", **arguments}
    for comparison in (
        lambda: compare(A, B, TOKENS, **options),
        lambda: compare_many({"a": A, "b": B}, TOKENS, **options),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            comparison()


@pytest.mark.parametrize("couples", ["ab", [("a", "b", "b")], [1], 5])
def test_couples_that_are_no_pairs(couples: Any) -> None:
    with pytest.raises(ValueError, match="expected couples as pairs of labels such as"):
        compare_many({"a": A, "b": B}, TOKENS, "layers.*", couples=couples)


ODD: Mapping[str, Any] = {"flag": True, "none": None, "negative": -1, "fraction": 2.5, "word": "x", "list": [None]}
ODD = {**ODD, "mapping": {"a": 1}, "object": object(), "nan": float("nan"), "class": CKA, "tensor": torch.ones(3, 2)}
CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "compare": (
        lambda **arguments: compare(A, B, TOKENS, **({"sites": "layers.*", "measures": [CKA()]} | arguments)),
        ("sites", "measures", "pairs", "null", "nulls", "influence", "mask", "pool", "positions", "control", "n_units"),
    ),
    "Tracker": (
        lambda **arguments: Tracker(
            **{"references": "init", "measures": CKA(), "probe": TOKENS, "folder": "x", **arguments}
        ),
        (
            *(
                "references",
                "measures",
                "probe",
                "sites",
                "every",
                "heatmap_every",
                "n_units",
                "nulls",
                "budget",
                "pool",
            ),
            *("precision", "tokens_per_step", "load", "control", "mask", "reference_groups", "channels", "alerts"),
            "figures",
        ),
    ),
}


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, (_, all_) in CALLS.items() for argument in all_]
)
def test_an_odd_argument_is_no_error_but_a_message(name: str, argument: str) -> None:
    """Whatever is passed: either it is accepted, or a ValueError says what is."""
    refused = 0
    for value in ODD.values():
        try:
            CALLS[name][0](**{argument: value})
        except ValueError:
            refused += 1
    assert refused > len(ODD) / 2


def test_one_rule_needs_no_list() -> None:
    assert rules_of(None, {}) == rules_of([], {}) == rules_of((), {}) == []
    assert rules_of("move", {}) == rules_of(Move(), {}) == rules_of({"rule": "move"}, {}) == [Move()]
    assert rules_of([{"rule": "collapse", "level": np.float32(0.05), "stop": np.True_}], {})[0].level == np.float32(
        0.05
    )
    for odd in (True, 3, [None], Collapse, {"collapse": {"stop": True}}):
        with pytest.raises(ValueError, match="alerts: expected one of the rules nearest, move, collapse, found"):
            rules_of(odd, {})  # pyright: ignore[reportArgumentType]
