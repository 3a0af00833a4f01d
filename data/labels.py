"""Names of classes: renamed, merged for splits that know coarser ones, and checked against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from data.examples import Example

Splits = Mapping[str, Sequence[Example]]
IN_DISTRIBUTION = ("train", "val")


@dataclass(frozen=True)
class LabelSet:
    """The classes that a split's labels are numbers of.

    Attributes:
        names: their names, in the order of their numbers.
        of_class: for each class of the model, the number of the name that it counts as.
    """

    names: tuple[str, ...]
    of_class: Int64[Tensor, " classes"]


def renamed(splits: Splits, labels: Mapping[str, str]) -> dict[str, list[Example]]:
    """Return all splits with the labels that are keys of `labels` replaced; others stay as they are.

    Raises:
        ValueError: a key that is no label of any split.
    """
    found = {example.label for examples in splits.values() for example in examples}
    _check_keys("labels", labels, found, "labels of the data")
    return {
        split: [replace(row, label=labels[row.label]) if row.label in labels else row for row in examples]
        for split, examples in splits.items()
    }


def label_sets(splits: Splits, merge: Mapping[str, str]) -> dict[str, LabelSet]:
    """Return, for each split, the classes that it is scored on.

    The model's classes are the labels of `train`, in alphabetical order. `train` and `val` are scored on them. So is
    any other split if `merge` is empty or does not cover it; it covers a split all of whose labels are merged ones:
    there, a prediction counts as the label that `merge` makes of it (as itself, where it says nothing). That is how a
    model of three classes is scored on data that knows two (McCoy et al. 2019).

    Args:
        splits: examples by split, `train` among them.
        merge: label of `train` to coarser label.

    Raises:
        ValueError: no `train` or no `val`; a split without examples; one class only in `train`; a key of `merge` that
            is no label of `train`; a split with labels that neither `train` nor `merge` has.
    """
    for split in IN_DISTRIBUTION:
        if split not in splits:
            raise ValueError(
                f"expected the splits train and val, found {', '.join(splits) or 'none'}: {split} is missing"
            )
    found = {split: sorted({example.label for example in examples}) for split, examples in splits.items()}
    empty = [split for split, labels in found.items() if not labels]
    if empty:
        raise ValueError(
            f"expected examples in every split, found none in {', '.join(empty)}: give it some, or leave it out of "
            "data.source"
        )
    classes = (*found["train"],)
    if len(classes) < 2:
        raise ValueError(
            f"expected at least two labels in the split train, found only {found['train'][0]!r}: nothing is learned "
            "from one; look at data.labels, at the column of labels, or give more data"
        )
    _check_keys("merge", merge, set(classes), "labels of the split train")
    fine = LabelSet(classes, torch.arange(len(classes)))
    merged = [merge.get(name, name) for name in classes]
    names = tuple(sorted(set(merged)))
    coarse = LabelSet(names, torch.tensor([names.index(name) for name in merged]))

    sets = {}
    for split, labels in found.items():
        if merge and split not in IN_DISTRIBUTION and set(labels) <= set(names):
            sets[split] = coarse
        elif set(labels) <= set(classes):
            sets[split] = fine
        else:
            also = f", merged {list(names)}" if merge else ""
            stranger = next(label for label in labels if label not in classes)
            elsewhere = {label for other in found if other not in IN_DISTRIBUTION for label in found[other]}
            example = ", ".join(f"{name}: {stranger}" for name in classes if name not in elsewhere)
            raise ValueError(
                f"expected labels of the split train, {list(classes)}{also}, in the split {split}, found {labels}: to "
                f"score a model of train's classes on coarser ones type "
                f"'data.merge={{{example or 'LABEL OF TRAIN: ITS COARSER LABEL'}}}'; to rename labels in every split "
                "type 'data.labels={OLD: NEW}'"
            )
    return sets


def _check_keys(option: str, mapping: Mapping[str, str], known: set[str], what: str) -> None:
    strangers = sorted(set(mapping) - known)
    if strangers:
        raise ValueError(f"expected {what} as keys of data.{option}, {sorted(known)}, found {strangers}: correct them")
