"""A training compared with models of other tokenizers, and outlier control during training, with interruptions."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train
from dissimilarity import CKA, compare
from dissimilarity.loading.texts import texts_of
from dissimilarity.probe.outliers import Control, without_top_norms
from dissimilarity.tables.curves import read_curves
from dissimilarity.tables.journal import Journal
from models.references import load
from tests.helpers.other_tokenizers import bert, llama, pieces_with_spaces, word_pieces
from tests.helpers.tiny_run import in_process, kill_at, tiny
from tests.instrument.tracking.test_tracker import LENGTH, SEQUENCES, Layered, fit, rows_of, tokens, tracker_for

pytest.importorskip("transformers")


def missing(note: str) -> bool:
    """Return whether a note says that a value is missing, and not that it is biased or not calibrated."""
    return bool(note) and "is biased toward similar" not in note and "has no calibrated value" not in note


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("foreign") / "encoder", word_pieces())


def values(folder: Path) -> dict[Any, Any]:
    keys = ("step", "reference", "measure", "site_a", "site_b")
    rows = read_curves(folder).to_pylist()
    return {tuple(row[key] for key in keys): {**row, "seconds": 0} for row in rows}


def test_curves_against_an_encoder_are_those_of_the_aligned_comparison(tmp_path: Path, encoder: Path) -> None:
    from launch.run.alignment import ProbeText

    assert in_process(tiny(tmp_path, references=f"[init,hf:{encoder}]", measures="all")) == 0
    folder = tmp_path / "runs" / "tiny"
    rows = [row for row in read_curves(folder).to_pylist() if row["step"] == 11 and row["reference"] == "encoder"]
    note = json.loads((folder / "provenance.json").read_text())["references"][f"hf:{encoder}"]["alignment"]
    ours, reference = load(str(folder / "checkpoints" / "last.ckpt")), load(f"hf:{encoder}")
    assert ours.tokenizer is not None
    cfg = tiny(tmp_path)
    data = train.settings.instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    alignment = ProbeText(data.probe(16, 16), ours.tokenizer, "word", "last").aligned(None, reference)
    assert (note["units"], note["sequences"]) == (alignment.units, len(alignment.rows)) and note["share_a"] > 0.1
    expected = compare(ours.model, reference.model, alignment, "blocks.*.resid_post", [CKA()], n_units=8).to_pylist()
    by_site = {row["site_b"]: row for row in rows if row["measure"] == "cka"}
    assert len(by_site) == len(expected) == 2
    for row in expected:
        tracked = by_site[row["site_b"]]
        assert tracked["value"] == pytest.approx(row["value"], abs=1e-5) and tracked["n_samples"] == row["n_samples"]
        assert tracked["stderr"] == pytest.approx(row["stderr"], rel=1e-3) and not missing(tracked["note"])
        assert tracked["null"] == pytest.approx(row["null"], abs=1e-5)
    for row in rows:
        if row["measure"].endswith("_crossfit"):  # half of so few words may not determine a map
            assert math.isfinite(row["value"]) or "half" in row["note"], row
            continue
        outputs = row["measure"] in ("kl", "jsd", "disagreement")
        assert math.isnan(row["value"]) == outputs and ("token by token" in row["note"]) == outputs, row
    assert all(not missing(row["note"]) for row in read_curves(folder).to_pylist() if row["reference"] == "init")


def test_positions_dropped_at_the_start_stay_dropped_when_a_run_continues(tmp_path: Path, encoder: Path) -> None:
    """The references are its own past, a run with its tokenizer and two models with others, one of them a decoder."""
    assert in_process(tiny(tmp_path, name="same", width=24, trainer__max_steps=2)) == 0
    decoder = llama(tmp_path / "decoder", pieces_with_spaces())
    against = f"[init,previous,runs/same,hf:{encoder},hf:{decoder}]"
    changes = {"references": against, "control__drop_top_norm": 1, "control__skip_first": 1, "align__unit": "token"}
    changes |= {"control__normalize": "layer_norm", "align__take": "mean"}
    assert in_process(tiny(tmp_path, name="whole", **changes)) == 0
    cut = tiny(tmp_path, name="cut", **changes)
    assert in_process(cut, lambda: kill_at("on_train_batch_end", 9)) == -9
    whole, again = (tmp_path / "runs" / name for name in ("whole", "cut"))
    assert in_process(cut) == 0
    assert {key[1] for key in values(whole)} == {"init", "previous", "same", "encoder", "decoder"}
    assert json.dumps(list(values(whole).values())) == json.dumps(list(values(again).values()))
    of_start = [load_file(folder / "references" / "positions.safetensors") for folder in (whole, again)]
    assert sorted(of_start[0]) == ["0", "1", "2"] and of_start[0]["0"].shape == (16, 14)
    assert all(torch.equal(of_start[0][key], of_start[1][key]) for key in of_start[0])
    for row in values(whole).values():
        assert not missing(row["note"]) and (
            row["reference"] not in ("init", "same") or row["n_samples"] in (16 * 14, 224)
        )
    alone = Journal(again / "intrinsic.jsonl").read()
    shares = [row for row in alone if row["measure"] == "first_component_share"]
    assert {row["step"] for row in shares} == {0, 8, 11} and all(0 < row["value"] <= 1 for row in shares)
    assert len(alone) == 4 * len(shares) and all(row["stderr"] > 0 for row in alone)
    assert {(row["reference"], row["of"]) for row in shares} == {
        (name, side) for name in ("init", "previous", "same", "encoder", "decoder") for side in ("model", "reference")
    }


def test_dropped_positions_depend_on_the_model_and_all_references(tmp_path: Path) -> None:
    """One position of one sequence has a very large norm in the teacher alone."""
    module, teacher = Layered(lr=0.0), Layered(width=12, depth=3, seed=5)
    probe = tokens(0, SEQUENCES, LENGTH)
    control = Control(drop_top_norm=2)
    tracker = tracker_for(tmp_path, {"teacher": teacher}, control={"drop_top_norm": 2}, measures=[CKA()])
    fit(tracker, module, steps=1)
    norms = {}
    for name, net in (("model", Layered(lr=0.0)), ("teacher", teacher)):
        x = net.embedding(probe)
        for index, layer in enumerate(net.layers):
            norms[name, index] = layer(x).detach().norm(dim=-1)
            x = x + layer(x)
    remaining = load_file(tmp_path / "references" / "positions.safetensors")["0"]
    assert torch.equal(remaining, without_top_norms(norms, 2))
    expected = compare(module, teacher, probe, "layers.*", [CKA()], control=control).to_pylist()
    values = {(row["site_a"], row["site_b"]): row["value"] for row in expected}
    for row in rows_of(tmp_path):
        assert row["value"] == pytest.approx(values[row["site_a"], row["site_b"]], abs=1e-6)
        assert row["n_samples"] == SEQUENCES * (LENGTH - 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"callbacks": "stitching"}, r"encoder has another tokenizer than this run.*callbacks=default"),
        ({"align__unit": "line"}, "align.unit=line: expected word or token"),
        ({"control__every": 0}, "control.every=0: expected a whole number, 1 or more"),
        ({"control__normalize": "batch"}, "control.normalize=batch: expected none, layer_norm or unit_norm"),
        ({"control__skip_first": 14, "control__drop_top_norm": 2}, "none of the probe.length=16 positions"),
    ],
)
def test_impossible_settings_are_rejected_at_the_start(
    changes: dict, message: str, tmp_path: Path, encoder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train.train(tiny(tmp_path, references=f"[hf:{encoder}]", **changes))
    assert not (tmp_path / "runs" / "tiny" / "checkpoints").exists()


def test_a_tokenizer_in_another_form_is_rejected_with_the_command_that_converts_it(
    tmp_path: Path, encoder: Path
) -> None:
    folder = bert(tmp_path / "old", word_pieces())
    (folder / "tokenizer.json").rename(folder / "vocab.txt")
    with pytest.raises(ValueError, match=r"tokenizer as vocab.txt, and only tokenizer.json is read; .*AutoTokenizer"):
        train.train(tiny(tmp_path, references=f"[hf:{folder}]"))


def test_the_text_of_a_lossless_tokenizer_comes_back(tmp_path: Path) -> None:
    """The other model reads the same text as the run, except for the ends of documents."""
    cfg = tiny(tmp_path)
    data = train.settings.instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    probe = data.probe(16, 16)
    texts, _ = texts_of(probe, data.tokenizer)
    for ids, text in zip(probe.tolist(), texts, strict=True):
        assert text.replace("\n\n", "") == data.tokenizer.decode(ids).replace("\n\n", "")


def test_a_tokenizer_in_another_file_is_named_with_a_command_that_converts_it(tmp_path: Path) -> None:
    folder = llama(tmp_path / "decoder", pieces_with_spaces())
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"init_from=hf:.* has no tokenizer.json, without which"):
        train.train(tiny(tmp_path, init_from=f"hf:{folder}"))
    (folder / "tokenizer.model").touch()
    for key, value in (("init_from", f"hf:{folder}"), ("references", f"[init,hf:{folder}]")):
        with pytest.raises(ValueError, match=r"hf:.* has its tokenizer as tokenizer.model, .*save_pretrained"):
            train.train(tiny(tmp_path, **{key: value}))
