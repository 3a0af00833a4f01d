"""The form of the JSON files that a run writes about itself, which anyone may have written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dissimilarity.loading.untrusted import CONTROLS, shown
from launch.cli.rules import FLAG, Rule, items, matching, names, number, one_of, or_null, whole
from launch.run.folder import read_json
from settings import PRECISIONS

LINE = Rule(
    ("text without control characters",), lambda value: isinstance(value, str) and CONTROLS.search(value) is None
)
NUMBER = or_null(number("that is finite", lambda value: True))
STEP = or_null(whole(0))


def mapping(rule: Rule, words: str) -> Rule:
    """Return the rule for a mapping of names, which may be shown, to values that fit `rule`."""
    inside = names(rule, f"names with {words}")
    return Rule(inside.words, lambda value: inside.fits(value) and all(map(LINE.fits, value)))


ENTRIES = Rule(("a mapping",), lambda value: isinstance(value, dict))

MODEL = {"path": LINE, "sha256": LINE, "step": STEP, "unfinished": or_null(FLAG)}
"""What a run notes about a model that it reads again when it continues."""
PROVENANCE = {
    "wandb_id": matching(r"\w+", "letters and digits"),
    "sweep": or_null(LINE),
    "data.fingerprint": LINE,
    "data.truncated": or_null(mapping(whole(0), "numbers of texts")),
    "precision.chosen": one_of(*PRECISIONS),
    "precision.why": LINE,
    "compile.chosen": FLAG,
    "compile.why": LINE,
    "references": ENTRIES,
    "starts": items(ENTRIES, "[{...}]"),
}
DRIFT = dict.fromkeys(("nearest", "next", "site"), LINE) | {
    **dict.fromkeys(("difference", "stderr", "p", "references"), NUMBER),
    "differs": FLAG,
}


def _is_drift(value: Any) -> bool:
    return isinstance(value, dict) and all(rule.fits(value.get(key)) for key, rule in DRIFT.items())


FINAL = dict.fromkeys(("reference", "measure", "site_a", "site_b"), LINE) | {
    "step": whole(0),
    "n_units": whole(0),
    **dict.fromkeys(("value", "stderr", "null", "calibrated"), NUMBER),
    "curve": items(NUMBER, "numbers"),
}


def _is_final(value: Any) -> bool:
    return isinstance(value, dict) and all(rule.fits(value.get(key)) for key, rule in FINAL.items())


SUMMARY = {
    "status": LINE,
    "why": or_null(LINE),
    "diverged_at": STEP,
    "steps": whole(0),
    "unigram_loss": or_null(number("from 0 to 100", lambda value: 0 <= value <= 100)),
    **dict.fromkeys(("val_loss", "bits_per_byte", "unigram_bits_per_byte", "perplexity"), NUMBER),
    **dict.fromkeys(("accuracy", "val_accuracy", "ood_accuracy"), NUMBER),
    **dict.fromkeys(("seconds", "tokens_per_second", "tracking_share"), NUMBER),
    "splits": or_null(mapping(NUMBER, "accuracies")),
    "labels": or_null(items(LINE, "[yes,no]")),
    "drift": or_null(mapping(Rule(("groups",), _is_drift), "nearest groups")),
    "parameters": or_null(whole(0)),
    "final": or_null(items(Rule(("final values",), _is_final), "final values")),
    "moves": or_null(mapping(mapping(mapping(STEP, "steps"), "sites"), "measures")),
    "wandb": or_null(LINE),
}

WORDS = ("status", "why", "labels", "wandb")
"""Keys of the summary that hold no numbers."""


def check_form(content: Any, form: Mapping[str, Rule], file: Path, inside: str = "") -> Any:
    """Check values that were read from a file, and return them.

    Args:
        content: The content of the file, or a part of it.
        form: Rules by dotted key; a missing key counts as null.
        file: The file, for the message.
        inside: Dotted key of the part, with a dot at its end.

    Raises:
        ValueError: If a value has another form; names the file, the key and what a run writes there.
    """
    for key, rule in form.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not rule.fits(value):
            raise ValueError(
                f"{file}: {shown(inside + key)}={shown(value)}: expected {rule.expected}; put a copy of the file back, "
                "or start over with name=... or overwrite=true"
            )
    return content


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the content of the summary.json of a run that has ended.

    Raises:
        ValueError: If it is damaged, or is not what a run writes.
    """
    path = folder / "summary.json"
    return check_form(read_json(path), SUMMARY, path)
