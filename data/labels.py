"""Names of classes: renamed, merged for splits with coarser ones, and checked against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from data.examples import Example, label_name

Splits = Mapping[str, Sequence[Example]]
IN_DISTRIBUTION = ("train", "val")


@dataclass(frozen=True)
class LabelSet:
    """The classes of a split; its labels are their numbers.

    Attributes:
        names: Their names, in the order of their numbers.
        label_of_class: Per class of the model, the number of the name that it counts as.
    """

    names: tuple[str, ...]
    label_of_class: Int64[Tensor, " classes"]


def renamed(splits: Splits, labels: Mapping[str, str]) -> dict[str, list[Example]]:
    """Return all splits with labels as `label_name` writes them, and those renamed that are keys of `labels`.

    Raises:
        ValueError: If a key is not a label of any split.
    """
    names = {label: label_name(label) for examples in splits.values() for label in {row.label for row in examples}}
    _check_keys("labels", labels, set(names.values()), "labels of the data")
    return {
        split: [replace(row, label=labels.get(names[row.label], names[row.label])) for row in examples]
        for split, examples in splits.items()
    }


def label_sets(splits: Splits, merge: Mapping[str, str]) -> dict[str, LabelSet]:
    """Return the classes that each split is scored on.

    The classes of the model are the labels of `train`, in alphabetical order. `train` and `val` are scored on them, and
    so is any other split unless all its labels are merged ones. In such a split, a prediction counts as the label that
    `merge` maps it to, or as itself if it is not a key of `merge`. A model with three classes is scored in this way on
    data with two (McCoy et al. 2019).

    Args:
        splits: Examples by split, `train` among them.
        merge: Coarser labels by label of `train`.

    Raises:
        ValueError: If there is no `train` or no `val`, a split without examples, only one class in `train`, a key of
            `merge` that is not a label of `train`, or a split with labels that neither `train` nor `merge` has.
    """
    for split in IN_DISTRIBUTION:
        if split not in splits:
            raise ValueError(
                f"expected the splits train and val, found {', '.join(splits) or 'none'}: {split} is missing"
            )
    labels_of = {split: sorted({example.label for example in examples}) for split, examples in splits.items()}
    empty = [split for split, labels in labels_of.items() if not labels]
    if empty:
        raise ValueError(
            f"expected examples in every split, found none in {', '.join(empty)}: give it some, or leave it out of "
            "data.source"
        )
    classes = (*labels_of["train"],)
    if len(classes) < 2:
        raise ValueError(
            f"expected at least two labels in the split train, found only {labels_of['train'][0]!r}: there is nothing "
            "to learn from one; check data.labels and the column of labels, or give more data"
        )
    _check_keys("merge", merge, set(classes), "labels of the split train")
    fine = LabelSet(classes, torch.arange(len(classes)))
    merged = [merge.get(name, name) for name in classes]
    names = tuple(sorted(set(merged)))
    coarse = LabelSet(names, torch.tensor([names.index(name) for name in merged]))

    sets = {}
    for split, labels in labels_of.items():
        if merge and split not in IN_DISTRIBUTION and set(labels) <= set(names):
            sets[split] = coarse
        elif set(labels) <= set(classes):
            sets[split] = fine
        else:
            also = f", merged {list(names)}" if merge else ""
            unknown = next(label for label in labels if label not in classes)
            elsewhere = {label for other in labels_of if other not in IN_DISTRIBUTION for label in labels_of[other]}
            example = ", ".join(f"{name}: {unknown}" for name in classes if name not in elsewhere)
            raise ValueError(
                f"expected labels of the split train, {list(classes)}{also}, in the split {split}, found {labels}: to "
                f"score a model with the classes of train on coarser ones type "
                f"'data.merge={{{example or 'LABEL OF TRAIN: ITS COARSER LABEL'}}}'; to rename labels in every split "
                "type 'data.labels={OLD: NEW}'"
            )
    return sets


def _check_keys(option: str, mapping: Mapping[str, str], labels: set[str], kinds: str) -> None:
    unknown = sorted(set(mapping) - labels)
    if unknown:
        raise ValueError(f"expected {kinds} as keys of data.{option}, {sorted(labels)}, found {unknown}: correct them")
