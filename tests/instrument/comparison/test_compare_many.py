"""Many models at once: the tables of `compare`, from one pass of each model and with one model in memory at a time."""

import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CKA, JSD, MutualKNN, Procrustes, compare
from dissimilarity.comparison import activations
from dissimilarity.comparison.compare import COLUMNS
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.comparison.plan import make_plan
from dissimilarity.comparison.save import save_activations
from dissimilarity.probe.probe_set import Extent, ProbeSet
from models.transformer import Transformer

VOCABULARY, LENGTH = 23, 8
MEASURES = (CKA(), Procrustes(), MutualKNN(k=5), JSD())
SHAPES = {"a": (16, 2), "b": (24, 3), "c": (16, 1)}


def model(label: str) -> Transformer:
    width, depth = SHAPES[label]
    torch.manual_seed(ord(label))
    net = Transformer(d_model=width, n_layers=depth, d_head=8, n_ctx=LENGTH, d_vocab=VOCABULARY, activation=nn.GELU)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def tokens(sequences: int = 21) -> Tensor:
    return torch.randint(VOCABULARY, (sequences, LENGTH), generator=torch.Generator().manual_seed(0))


def loaders() -> dict[str, Callable[[], nn.Module]]:
    return {label: lambda label=label: model(label) for label in SHAPES}


def by_pairs(**options: Any) -> list[dict[str, Any]]:
    """Compare two by two."""
    records = []
    for a, b in (("a", "b"), ("a", "c"), ("b", "c")):
        rows = compare(model(a), model(b), tokens(), measures=MEASURES, **options).to_pylist()
        records += [{"model_a": a, "model_b": b, **row} for row in rows]
    return records


def equal(records: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float) -> None:
    assert len(records) == len(expected) > 0
    for row, other in zip(records, expected, strict=True):
        for key, value in other.items():
            if isinstance(value, float | list):
                assert row[key] == pytest.approx(value, abs=tolerance, nan_ok=True), (key, row, other)
            else:
                assert row[key] == value


@pytest.mark.parametrize("pairs", ["all", "matched"])
@pytest.mark.parametrize("null", [True, False])
def test_the_table_is_that_of_every_pair_alone(pairs: Any, null: bool) -> None:
    table = compare_many(loaders(), tokens(), measures=MEASURES, pairs=pairs, n_units=4, null=null)
    assert tuple(table.column_names) == ("model_a", "model_b", *COLUMNS)
    equal(table.to_pylist(), by_pairs(pairs=pairs, n_units=4, null=null), 0)


def test_each_model_is_loaded_once_and_released_before_the_next() -> None:
    alive: list[weakref.ref] = []

    def loader(label: str) -> Callable[[], nn.Module]:
        def load() -> nn.Module:
            assert not any(ref() is not None for ref in alive), "a model before this one is still in memory"
            net = model(label)
            alive.append(weakref.ref(net))
            return net

        return load

    compare_many({label: loader(label) for label in SHAPES}, tokens(), measures=[CKA()])
    assert len(alive) == 3


def test_above_a_size_activations_go_to_files_that_are_deleted_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(activations, "IN_MEMORY", 0)
    monkeypatch.setattr(activations, "FILE_SIZE", 2**12)
    monkeypatch.setattr("dissimilarity.probe.batches.TOKENS_PER_BATCH", 4 * LENGTH)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    saves: list[int] = []
    mapped = activations.mapped
    monkeypatch.setattr(activations, "mapped", lambda *args: (saves.append(1), mapped(*args))[1])
    records = compare_many(loaders(), tokens(), measures=MEASURES, n_units=4).to_pylist()
    assert len(saves) > len(SHAPES), "one model takes several files"
    equal(records, by_pairs(n_units=4), 0)
    assert list(tmp_path.glob("activations-*")) == []


def test_samples_in_files_are_the_same_and_begin_as_in_memory(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    acts = {"a": torch.randn(3, 5, generator=g), "b": torch.randn(7, generator=g).double()}
    acts |= {"c": torch.randn(4, 6, generator=g).bfloat16().T, "d": torch.randn(2, 1, 3, generator=g)}
    chunks: activations.Chunks = [(acts, range(2)), ({"a": acts["a"] + 1}, range(2, 3))]
    files = activations.mapped(chunks, tmp_path / "1.bin")
    assert [units for _, units in files] == [range(2), range(2, 3)] and list(tmp_path.iterdir()) == []
    for (mapped, _), (expected, _) in zip(files, chunks, strict=True):
        assert list(mapped) == list(expected)
        for site, samples in mapped.items():
            assert samples.dtype == expected[site].dtype and torch.equal(samples, expected[site])
            assert samples.data_ptr() % activations.ALIGNMENT == 0


@pytest.mark.parametrize("cache", [0, 2**30])
def test_sites_compared_in_blocks_give_the_same_table(monkeypatch: pytest.MonkeyPatch, cache: int) -> None:
    monkeypatch.setattr(activations, "PAIR_SUMS", 24 * 24 * (8 + 4 * 4))
    monkeypatch.setattr(activations, "BLOCK_CACHE", cache)
    plan = make_plan(ProbeSet(Extent(8, 1), n_units=4), [CKA()])
    acts = {"x": torch.zeros(2, 12), "y": torch.zeros(2, 12), "z": torch.zeros(2, 1)}
    net = activations.ModelActivations(plan, ["x", "y", "z"], [(acts, range(1))])
    assert net.blocks() == [("x", "y"), ("z",)]
    for pairs in ("all", "matched"):
        records = compare_many(loaders(), tokens(), measures=MEASURES, n_units=4, pairs=pairs).to_pylist()
        equal(records, by_pairs(n_units=4, pairs=pairs), 1e-6)


def test_a_model_may_be_compared_with_itself_and_only_given_couples_are_compared() -> None:
    loaded: list[str] = []
    models = {label: lambda label=label: (loaded.append(label), model(label))[1] for label in SHAPES}
    rows = compare_many(models, tokens(), measures=[CKA()], couples=[("b", "b"), ("b", "a")]).to_pylist()
    assert loaded == ["a", "b"]
    assert [(row["model_a"], row["model_b"]) for row in rows] == [("b", "b")] * 9 + [("b", "a")] * 6
    for row in rows[:9]:
        if row["site_a"] == row["site_b"]:
            assert row["value"] == pytest.approx(1, abs=1e-6)
    mirrored = compare(model("b"), model("a"), tokens(), measures=[CKA()]).to_pylist()
    assert [row["value"] for row in rows[9:]] == [row["value"] for row in mirrored]


def test_saved_activations_and_models_are_compared_together(tmp_path: Path) -> None:
    files = {label: save_activations(model(label), tokens(), tmp_path / f"{label}.safetensors") for label in "bc"}
    models = {"a": model("a"), **files}
    records = compare_many(models, tokens(), measures=[CKA(), MutualKNN(k=5)], n_units=4).to_pylist()
    expected = [row for row in by_pairs(n_units=4) if row["measure"] in ("cka", "mutual_knn_5")]
    equal(records, expected, 1e-6)
    alone = compare_many(files, measures=[CKA()], n_units=4).to_pylist()
    of_files = [row | {"probe": ""} for row in expected if row["measure"] == "cka" and row["model_a"] == "b"]
    equal(alone, of_files, 1e-6)


def test_a_site_without_values_leaves_a_note() -> None:
    broken: Any = model("b")
    nn.init.constant_(broken.blocks[1].mlp.W_out.bias, math.nan)
    rows = compare_many({"a": model("a"), "b": broken}, tokens(), measures=[CKA()]).to_pylist()
    notes = {row["site_b"]: row["note"] for row in rows}
    assert "NaN" in notes["blocks.1.resid_post"] and not notes["blocks.0.resid_post"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"couples": [("a", "d")]}, "found couples with d"),
        ({"couples": []}, "found 3 and no couple"),
        ({"sites": "blocks.2.resid_post"}, "^a: no site of the model matches 'blocks.2.resid_post'"),
        ({"tokens": None}, "expected tokens to run the model on"),
    ],
)
def test_inputs_that_cannot_be_compared_are_rejected(options: dict[str, Any], message: str) -> None:
    arguments: Any = {"models": loaders(), "tokens": tokens(), "measures": [CKA()], **options}
    with pytest.raises(ValueError, match=message):
        compare_many(**arguments)
