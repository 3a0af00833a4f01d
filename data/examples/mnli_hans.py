"""MNLI for training and HANS for the test of heuristics, from the Hugging Face hub."""

from typing import Any

from data.examples import Example, split_name
from data.sources.hub import check_name

MNLI_LABELS = ("entailment", "neutral", "contradiction")
HANS_LABELS = ("entailment", "non-entailment")


class MnliHans:
    """Multi-Genre NLI (Williams et al. 2018) and HANS (McCoy, Pavlick and Linzen 2019).

    `train` is the training part of MNLI and `val` its matched validation part, with three labels. The splits out of
    distribution are the validation part of HANS by heuristic and label, such as `lexical_overlap.non_entailment`, with
    two labels: see data.merge. The data is downloaded once, with the library `datasets`.

    Args:
        mnli: Name of MNLI on the hub, or a local folder in the layout of the hub, with a configuration `mnli`.
        hans: Name of HANS on the hub, or a local folder.
        revision: Commit, tag or branch of both; None = the newest.
        max_examples: Largest number of training rows to read from MNLI, from its beginning; None = all 392,702.

    Raises:
        ValueError: If max_examples is below 1; from splits(), if a data set cannot be reached or has other columns.
    """

    def __init__(
        self,
        mnli: str = "nyu-mll/glue",
        hans: str = "tasksource/hans",
        revision: str | None = None,
        max_examples: int | None = None,
    ) -> None:
        if max_examples is not None and max_examples < 1:
            raise ValueError(f"expected data.source.max_examples >= 1 or null, found {max_examples}")
        for key, name in (("mnli", mnli), ("hans", hans)):
            check_name(name, f"data.source.{key}")
        self.mnli = mnli
        self.hans = hans
        self.revision = revision
        self.max_examples = max_examples

    def splits(self) -> dict[str, list[Example]]:
        """Return `train`, `val`, and HANS by heuristic and label."""
        first = f"[:{self.max_examples}]" if self.max_examples else ""
        splits = {
            "train": self._examples(self.mnli, "mnli", f"train{first}", MNLI_LABELS),
            "val": self._examples(self.mnli, "mnli", "validation_matched", MNLI_LABELS),
        }
        for example in self._examples(self.hans, None, "validation", HANS_LABELS, ("heuristic", "subcase")):
            heuristic, kind = example.subcase.split(".", 1)
            split = split_name(heuristic, example.label)
            splits.setdefault(split, []).append(Example(example.text, example.pair, example.label, f"{split}.{kind}"))
        return splits

    def _examples(
        self, name: str, config: str | None, split: str, labels: tuple[str, ...], kinds: tuple[str, ...] = ()
    ) -> list[Example]:
        table = self._load(name, config, split)
        columns = {"premise", "hypothesis", "label", *kinds}
        missing = sorted(columns - set(table.column_names))
        if missing:
            raise ValueError(
                f"expected columns {sorted(columns)} in {name!r}, found {table.column_names}: it is another data set; "
                "for your own data use data=pairs_file"
            )
        # Names of classes in the data set take precedence; numbers without names are in this order.
        names = getattr(table.features["label"], "names", None) or labels
        rows = []
        for number, row in enumerate(table):
            empty = [column for column in ("premise", "hypothesis", "label") if row[column] in (None, -1)]
            if empty:
                raise ValueError(
                    f"expected two texts and a label in every row of {name!r}, found {row[empty[0]]} in column "
                    f"{empty[0]!r} of row {number}, split {split!r}: delete the row"
                )
            label = row["label"] if isinstance(row["label"], str) else names[row["label"]]
            rows.append(Example(row["premise"], row["hypothesis"], label, ".".join(row[kind] for kind in kinds)))
        return rows

    def _load(self, name: str, config: str | None, split: str) -> Any:
        # Importing datasets takes a second, which other data should not cost.
        from datasets import load_dataset

        try:
            return load_dataset(name, config, split=split, revision=self.revision)
        except Exception as error:
            raise ValueError(
                f"could not read the data set {name!r} (config {config}, split {split!r}, revision {self.revision}) "
                f"from the Hugging Face hub: {error}. Without a network set HF_HUB_OFFLINE=1 to fail at once, or use "
                "data that needs none: data=heuristics, or data=pairs_file 'data.source.files={train: my.tsv}'"
            ) from error
