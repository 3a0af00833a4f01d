"""Probe loaders of any form: the same inputs and mask as from one tensor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchEncoding

from dissimilarity import CKA, Procrustes, compare
from dissimilarity.probe.batched_inputs import as_inputs
from dissimilarity.tables.curves import read_curves
from dissimilarity.tracking.tracker import Tracker
from dissimilarity.tracking.training_state import TrainingState
from tests.instrument.probe.test_padded_models import MODELS, net_of, padded

TOKENS, MASK = padded(0, "right")


def batches(kind: Any = dict, cut: bool = True) -> list[Any]:
    """Return the texts four at a time, each batch padded to its longest one."""
    parts = []
    for start in range(0, len(TOKENS), 4):
        rows = slice(start, start + 4)
        longest = int(MASK[rows].sum(1).max()) if cut else TOKENS.shape[1]
        tokens, mask = TOKENS[rows, :longest], MASK[rows, :longest].long()
        parts.append(kind({"input_ids": tokens, "attention_mask": mask, "labels": torch.zeros(4)}))
    return parts


PADDED: dict[str, Any] = {
    "mappings": batches(),
    "what a tokenizer returns": batches(BatchEncoding),
    "tuples of a mapping and labels": [(batch, torch.zeros(4)) for batch in batches()],
    "one mapping": {"input_ids": TOKENS, "attention_mask": MASK.long()},
    "lists, without return_tensors": BatchEncoding(
        {"input_ids": TOKENS.tolist(), "attention_mask": MASK.int().tolist()}
    ),
    "arrays": {"input_ids": TOKENS.numpy(), "attention_mask": MASK.numpy()},
    "some batches without a mask": [
        *({"input_ids": TOKENS[:1], "attention_mask": MASK[:1]}, TOKENS[8:9]),
        {"input_ids": TOKENS[1:3], "attention_mask": MASK[1:3]},
    ],
}


@pytest.mark.parametrize("form", PADDED)
def test_texts_and_masks_are_those_of_the_batches(form: str) -> None:
    tokens, mask = as_inputs(PADDED[form])
    assert mask is not None
    rows = [0, 8, 1, 2] if form == "some batches without a mask" else range(len(TOKENS))
    expected = [TOKENS[row][MASK[row]] for row in rows]
    if form == "some batches without a mask":
        expected[1] = TOKENS[8]
    assert all(torch.equal(row[real], text) for row, real, text in zip(tokens, mask, expected, strict=True))


@pytest.mark.usefixtures("unchecked")
def test_arrays_are_taken_where_tensors_are() -> None:
    net = net_of("decoder, rotary", 1)
    tokens, mask = padded(3, "right")
    first, second = (
        compare(net, net_of("decoder, rotary", 2), inputs, "layers.0", [CKA()], mask=where).to_pylist()  # pyright: ignore
        for inputs, where in ((tokens, mask), (tokens.numpy(), mask.numpy()))
    )
    assert str(first) == str(second)


def test_inputs_without_a_mask_have_none() -> None:
    images = torch.randn(6, 3, 4, 4)
    loader = DataLoader(TensorDataset(TOKENS, torch.zeros(len(TOKENS))), batch_size=5)
    for probe, expected in (
        (TOKENS, TOKENS),
        (loader, TOKENS),
        ([{"pixel_values": images[:4], "labels": torch.zeros(4)}, {"pixel_values": images[4:]}], images),
        ({"image": images}, images),
    ):
        inputs, mask = as_inputs(probe)
        assert torch.equal(inputs, expected) and mask is None


REFUSED: dict[str, tuple[Any, str]] = {
    "unequal lengths without masks": (
        [TOKENS[:4], TOKENS[4:, :5]],
        r"of one shape, found \(5,\) and \(9,\) per sequence; pass them with an attention_mask",
    ),
    "images of two sizes": ([torch.randn(2, 3, 4, 4), torch.randn(2, 3, 5, 5)], r"found \(3, 4, 4\) and \(3, 5, 5\)"),
    "no input": ([{"labels": [1], "text": ["a"]}], "expected one of input_ids, pixel_values.*found labels, text"),
    "two inputs": ({"a": TOKENS, "b": TOKENS}, "expected one of input_ids.*found a, b"),
    "embeddings": ({"inputs_embeds": torch.randn(4, 5, 6)}, "found inputs_embeds, and models are called with tokens"),
    "rows of unequal length": (BatchEncoding({"input_ids": [[5, 6], [7]]}), r"input_ids, found list of unequal rows"),
    "texts": (["to be", "or not"], "expected batches of tensors.*found str"),
    "nothing": ([], "expected batches of inputs as a probe, found none"),
    "a number": (3, "expected a probe of a tensor, a mapping with input_ids, or batches, found 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_are_not_a_probe_set_are_rejected(case: str, unchecked: None) -> None:
    probe, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        as_inputs(probe)


def test_the_tracker_and_compare_take_the_mask_of_a_loader(tmp_path: Path) -> None:
    a, b, site = net_of("encoder", 1), net_of("encoder", 2), MODELS["encoder"][1]
    expected = compare(a, b, TOKENS, site, [CKA()], mask=MASK, n_units=3).to_pylist()[0]
    tracker = Tracker(
        {"other": b, "same": a}, [CKA(), Procrustes()], batches(BatchEncoding), tmp_path, sites=site, n_units=3
    )
    training = TrainingState(a, 0, 1)
    tracker.start(training)
    tracker.tick(training)
    tracker.publish()
    rows = {(row["reference"], row["measure"]): row for row in read_curves(tmp_path).to_pylist()}
    assert rows["other", "cka"]["value"] == pytest.approx(expected["value"], abs=1e-9)
    assert rows["other", "cka"]["n_samples"] == expected["n_samples"] == int(MASK.sum())
    assert (rows["same", "cka"]["value"], rows["same", "procrustes"]["value"]) == (1, 0)
    through_compare = compare(a, b, batches(), site, [CKA()], n_units=3).to_pylist()[0]
    assert through_compare["value"] == pytest.approx(expected["value"], abs=1e-9)


@pytest.mark.parametrize("key", ["token_type_ids", "global_attention_mask"])
def test_inputs_that_are_left_out_are_named(key: str, recwarn: pytest.WarningsRecorder) -> None:
    batch = {"input_ids": TOKENS, "attention_mask": MASK}
    as_inputs([batch | {key: torch.zeros_like(TOKENS)}, TOKENS])
    assert not recwarn.list
    with pytest.warns(UserWarning, match=f"found {key} that are not all 0 beside input_ids"):
        as_inputs([batch | {key: MASK.long()}])
