"""The command `dissimilarity compare`, run on tiny models that it finds in folders."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from dissimilarity.capture import offloaded
from dissimilarity.cli import comparison, memory, texts
from dissimilarity.cli.command import main
from dissimilarity.cli.places import Place, told_apart
from dissimilarity.cli.verdict import verdict
from dissimilarity.comparison.save import save_activations
from dissimilarity.measures.cka import CKA
from dissimilarity.probe.steps import NotInStepsError
from tests.helpers.report_folders import page_of

transformers = pytest.importorskip("transformers")

WORDS = [f"the {kind} of {number} things" for number in range(400) for kind in ("cat", "river", "number")]
FEW = ["--sequences", "16", "--length", "16"]
BLOCK = "blocks.{}.resid_post"


def tokenizer(size: int) -> Tokenizer:
    """Return byte pairs trained on `WORDS`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    return bpe


def llama(folder: Path, seed: int = 0, vocabulary: int = 300, inner: int = 32) -> Path:
    """Write a random Llama with its tokenizer."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": inner, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=vocabulary, max_position_embeddings=64, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    return folder


def changed(folder: Path, target: Path, change: Any) -> Path:
    """Write a copy of a model with other weights."""
    shutil.copytree(folder, target)
    weights = {name: change(name, weight) for name, weight in load_file(target / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model; one weight of its second block changed; another seed; another vocabulary; rounded weights; a text."""
    root = tmp_path_factory.mktemp("models")
    model = llama(root / "model")

    def planted(name: str, weight: torch.Tensor) -> torch.Tensor:
        if name == "model.layers.1.mlp.up_proj.weight":
            weight[3, 5] += 1e-3
        return weight

    (root / "text.txt").write_text(" ".join(WORDS))
    return {
        "model": model,
        "planted": changed(model, root / "planted", planted),
        "rounded": changed(model, root / "rounded", lambda name, weight: weight.bfloat16()),
        "seed": llama(root / "seed", 1),
        "vocabulary": llama(root / "vocabulary", 0, 320),
        "text": root / "text.txt",
    }


def compare(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Run the command, and return its exit code and what it printed."""
    code = main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys: pytest.CaptureFixture[str], folders: dict[str, Path], a: str, b: str, *more: Any) -> dict[str, Any]:
    arguments = (folders[a], folders[b], "--text", folders["text"], *FEW, "--format", "json", *more)
    code, out, err = compare(capsys, *arguments)
    assert code == 0, err
    return json.loads(out)


def test_a_text_that_repeats_itself_is_no_sample(capsys: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n" * 4000)
    arguments = (folders["model"], folders["seed"], "--text", tmp_path / "blank.txt", *FEW)
    code, _, err = compare(capsys, *arguments)
    assert code == 2 and "give 4 or more that differ" in " ".join(err.split())


def test_one_changed_weight_is_found_at_its_block(capsys: Any, folders: dict[str, Path]) -> None:
    result = as_json(capsys, folders, "model", "planted", "--measures", "cka")
    assert f"alike to within rounding up to {BLOCK.format(0)} and differ from {BLOCK.format(1)} on" in result["verdict"]
    errors = [row["relative_error"] for row in result["rows"]]
    assert errors[0] == 0 and 1e-6 < errors[1] < 1e-3 and 1e-6 < errors[2] < 1e-3
    assert 0 < result["outputs"]["kl"] < result["outputs"]["kl_high"]


def test_a_model_is_identical_to_itself(capsys: Any, folders: dict[str, Path]) -> None:
    assert "identical: all activations agree to the last bit" in as_json(capsys, folders, "model", "model")["verdict"]


def test_a_length_that_a_message_gives_works(capsys: Any, folders: dict[str, Path]) -> None:
    """Pieces of 64 tokens of the larger vocabulary take more of the smaller one, whose model reads 64."""
    arguments = (folders["vocabulary"], folders["model"], "--text", folders["text"], "--measures", "cka")
    for asked in ("64", "200"):
        code, _, err = compare(capsys, *arguments, "--sequences", "16", "--length", asked)
        assert code == 2 and f"--length {asked}: the models read at most 64 tokens, and some pieces with 64" in err
    shorter = int(err.rpartition("--length ")[2])
    code, out, _ = compare(capsys, *arguments, "--sequences", "16", "--length", str(shorter))
    assert code == 0 and f"On 16 sequences of {shorter} tokens" in out
    code, out, _ = compare(capsys, *arguments, "--sequences", "16")
    assert code == 0 and f"On 16 sequences of {shorter} tokens" in out, "the same where none is asked for"


@pytest.mark.parametrize("more", [(), ("--block-by-block",), ("--pairs", "all")])
def test_sites_of_other_widths_are_compared_but_not_subtracted(
    more: tuple[str, ...], capsys: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    sides = {**folders, "wide": llama(tmp_path / "wide", inner=48)}
    result = as_json(capsys, sides, "model", "wide", "--measures", "cka", "--sites", "blocks.*.mlp.post,embed", *more)
    rows = {row["site_a"]: row for row in result["rows"] if row["site_a"] == row["site_b"]}
    assert len(rows) == 4 and all(math.isfinite(row["value"]) for row in rows.values())
    assert rows["blocks.1.mlp.post"].get("relative_error") is None and rows["embed"]["relative_error"] is not None
    assert "are identical" not in result["verdict"] and "last bit" not in result["verdict"]
    why = "blocks.{0-2}.mlp.post: widths differ, so these are not compared element by element"
    assert result["notes"] == [why]


def test_a_note_of_one_layer_stands_once_with_its_layer(capsys: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    def broken(name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight * math.nan if name == "model.layers.2.mlp.down_proj.weight" else weight

    nan = changed(folders["model"], tmp_path / "nan", broken)
    arguments = (folders["model"], nan, "--text", folders["text"], *FEW, "--measures", "cka,procrustes")
    code, out, _ = compare(capsys, *arguments)
    notes = " ".join(out.split()).count(f"values at {BLOCK.format(2)} are NaN or infinite")
    assert code == 0 and notes == 1 and "{2-2}" not in out


def test_no_name_and_no_number_is_cut(
    capsys: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sites = ("--sites", "blocks.*.mlp.post,blocks.*.resid_*")
    arguments = (folders["model"], folders["planted"], "--text", folders["text"], *FEW, "--measures", "cka", *sites)
    code, out, _ = compare(capsys, *arguments)
    assert code == 0 and "…" not in out
    tables = out.partition("\n\n")[2]
    for site in ("resid_pre", "resid_mid", "resid_post", "mlp.post"):
        assert tables.count(f"1.{site} ") == 2, "one row of values, and one of differences"


@pytest.mark.parametrize("more", [(), ("--block-by-block",)])
def test_models_whose_predictions_were_not_compared_are_not_identical(
    more: tuple[str, ...], capsys: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    body = Path(shutil.copytree(folders["model"], tmp_path / "body"))
    transformers.AutoModel.from_pretrained(folders["model"]).save_pretrained(body)
    verdict = as_json(capsys, {**folders, "body": body}, "model", "body", "--measures", "cka", *more)["verdict"]
    assert verdict.startswith("All activations of model and body that were compared agree to the last bit. Predictions")


@pytest.mark.parametrize("more", [(), ("--block-by-block",)])
def test_a_model_whose_activations_are_nan_is_not_identical(
    more: tuple[str, ...], capsys: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Neither is the answer anything but JSON, which has no NaN."""

    def broken(name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight * torch.nan if name == "model.layers.1.mlp.up_proj.weight" else weight

    nan = changed(folders["model"], tmp_path / "nan", broken)
    arguments = (folders["model"], nan, "--text", folders["text"], *FEW, "--measures", "cka", *more)
    code, out, _ = compare(capsys, *arguments)
    assert code == 0 and "are identical" not in out
    assert f"At {BLOCK.format(1)} and {BLOCK.format(2)}, activations" in " ".join(out.split())

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    result = json.loads(compare(capsys, *arguments, "--format", "json")[1], parse_constant=refuse)
    assert [row["largest"] is None for row in result["rows"]] == [False, True, True]
    assert result["outputs"] == {"kl": None, "kl_high": None, "largest": None}


@pytest.mark.parametrize("more", [(), ("--block-by-block",)])
def test_models_that_differ_in_their_heads_alone_are_not_identical(
    more: tuple[str, ...], capsys: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    head = changed(folders["model"], tmp_path / "head", lambda name, x: x * 1.5 if name == "lm_head.weight" else x)
    arguments = (folders["model"], head, "--text", folders["text"], *FEW, "--measures", "cka", *more)
    words = " ".join(compare(capsys, *arguments)[1].split())
    assert "agree to the last bit, but not what follows. Their predictions differ by" in words


def test_rounded_weights_are_alike_to_within_their_precision(capsys: Any, folders: dict[str, Path]) -> None:
    result = as_json(capsys, folders, "model", "rounded", "--measures", "cka")
    assert "alike to within rounding at all 3 sites" in result["verdict"]
    assert all(1e-3 < row["relative_error"] < 1e-2 for row in result["rows"])


def test_two_seeds_differ_at_every_layer(capsys: Any, folders: dict[str, Path]) -> None:
    result = as_json(capsys, folders, "model", "seed", "--nulls", "20")
    assert "rounding" not in result["verdict"] and "differ most at" in result["verdict"]
    rows = [row for row in result["rows"] if row["measure"] == "cka"]
    assert all(row["low"] < row["value"] < row["high"] < 1 and row["p"] <= 1 for row in rows)


def test_other_tokens_are_aligned_by_the_text(capsys: Any, folders: dict[str, Path]) -> None:
    result = as_json(capsys, folders, "model", "vocabulary", "--measures", "cka")
    assert 0.2 < result["probe"]["share_a"] <= 1 and len(result["rows"]) == 3
    assert "relative_error" not in result["rows"][0]
    why = "the tokenizers of model and vocabulary differ, so they are compared at the ends of words"
    assert [note.startswith(why) for note in result["notes"]].count(True) == 1, result["notes"]


def test_tokenizers_that_give_the_text_the_same_tokens_are_the_same(
    capsys: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As that of a GGUF file, to which transformers adds a token; one that puts a token before a text is another."""
    for name in ("more", "before"):
        shutil.copytree(folders["planted"], tmp_path / name)
        file = str(tmp_path / name / "tokenizer.json")
        other = Tokenizer.from_file(file)
        other.add_special_tokens(["<|end|>"])
        if name == "before":
            other.post_processor = processors.TemplateProcessing(single="a $A", special_tokens=[("a", 64)])
        other.save(file)
    places = {**folders, "more": tmp_path / "more", "before": tmp_path / "before"}
    same, aligned = (as_json(capsys, places, "model", name, "--measures", "cka") for name in ("more", "before"))
    assert "share_a" not in same["probe"] and not any("tokenizers" in note for note in same["notes"])
    assert [row["relative_error"] > 0 for row in same["rows"]] == [False, True, True]
    assert "share_a" in aligned["probe"] and "the tokenizers of model and before differ" in aligned["notes"][0]


def test_tokenizers_that_part_late_in_a_text_differ() -> None:
    text = "the cat of 1 things " * 2000
    a, b = tokenizer(300), tokenizer(300)
    b.add_special_tokens(["<|end|>"])
    assert texts.is_same(a, b, text) and not texts.is_same(a, b, f"{text}<|end|>")


def test_files_hold_the_table_the_figures_and_where_they_come_from(
    capsys: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    more = ("--measures", "cka", "--influence", "--out", tmp_path / "out")
    result = as_json(capsys, folders, "model", "seed", *more)
    source = folders["text"].read_text()
    assert len(result["text"]) == 3 and all(f" {passage} " in f" {source} " for passage in result["text"])
    assert all(len(passage.split()) > 3 for passage in result["text"])
    (text,) = json.loads((tmp_path / "out" / "texts.json").read_text())["texts"]
    whole = ["".join(piece for piece, _ in sequence["pieces"]) for sequence in text["sequences"]]
    assert all(f" {words.strip()} " in f" {source} " for words in whole)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert names >= {"table.parquet", "layers.csv", "summary.json", "provenance.json", "figures/comparison.pdf"}
    assert "figures/text.png" in names
    origin = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(origin["models"]) == {"model", "seed"} and len(origin["models"]["seed"]["sha256"]) == 64


def test_the_page_says_what_the_terminal_says(capsys: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    """The text is too short for the sequences that are asked for."""
    arguments = [folders["model"], folders["planted"], "--text", folders["text"], "--measures", "cka"]
    arguments += ["--sequences", 4000, "--length", 16, "--out", tmp_path / "out"]
    code, out, err = compare(capsys, *arguments)
    assert code == 0, err
    page = page_of(tmp_path / "out")
    text, words = " ".join(page.text.split()), " ".join(out.split())
    used = re.search(r"On (\d+ of 4000 sequences of 16 tokens from .*?\(the text is too short for more\))", words)
    assert used is not None and used[1] in text
    rows = [line.split("│") for line in out.rpartition("rounding │")[2].splitlines() if line.count("│") == 4]
    assert len(rows) == 3
    cells = [data for name, *numbers in rows for data in (BLOCK.format(name.strip()), *(n.strip() for n in numbers))]
    assert " ".join(cells).replace(" ", "") in text.replace(" ", "")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert f"KL divergence {summary['outputs']['kl']:.1e} nats" in text and "A layer differs if" in text


def test_csv_and_latex_have_a_line_per_layer(capsys: Any, folders: dict[str, Path]) -> None:
    arguments = (folders["model"], folders["seed"], "--text", folders["text"], *FEW, "--measures", "cka", "--format")
    rows = list(csv.DictReader(io.StringIO(compare(capsys, *arguments, "csv")[1])))
    assert [row["site_a"] for row in rows] == [BLOCK.format(layer) for layer in range(3)]
    lines = compare(capsys, *arguments, "latex")[1].splitlines()
    cells = [line for line in lines if line.startswith("cka")]
    assert len(cells) == 3 and all(line.count("&") == 11 and r"resid\_post" in line for line in cells)


def test_exit_codes_tell_ci_what_to_do(capsys: Any, folders: dict[str, Path]) -> None:
    arguments = (folders["model"], folders["seed"], "--text", folders["text"], *FEW, "--measures", "cka", "--fail-over")
    assert compare(capsys, *arguments, "cka=2")[0] == 0
    code, _, err = compare(capsys, *arguments, "cka=0.01")
    assert code == 3 and "more than 0.01" in err
    # a limit on a measure that was not asked for computes it
    assert compare(capsys, *arguments, "procrustes=0.01")[0] == 3


def test_a_limit_holds_for_a_measure_whose_label_is_not_its_name(capsys: Any, tmp_path: Path) -> None:
    for seed in (0, 1):
        np.save(tmp_path / f"{seed}.npy", np.random.default_rng(seed).normal(size=(64, 8)))
    limits = ("--measures", "cka", "--fail-over", "minibatch_cka=0.1")
    assert compare(capsys, tmp_path / "0.npy", tmp_path / "1.npy", *limits)[0] == 3


def test_a_folder_of_activations_is_named_as_it_is(capsys: Any, tmp_path: Path) -> None:
    for name in ("act.v1", "act.v2"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "site.npy", np.random.default_rng(len(name)).normal(size=(64, 8)))
    out = compare(capsys, tmp_path / "act.v1", tmp_path / "act.v2", "--measures", "cka")[1]
    assert "act.v1 and act.v2" in " ".join(out.split())


def test_activations_in_files(capsys: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(64, 8))
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", 2 * x + 1)
    code, out, _ = compare(capsys, tmp_path / "a.npy", tmp_path / "b.npy", "--measures", "cka", "--format", "json")
    assert code == 0 and json.loads(out)["rows"][0]["value"] == pytest.approx(1)
    words = " ".join(compare(capsys, tmp_path / "a.npy", tmp_path / "b.npy", "--out", tmp_path / "out")[1].split())
    assert "On saved activations" in words and "for these two representations" in words
    for shown in (words, " ".join(page_of(tmp_path / "out").text.split())):
        assert "other samples of this kind" in shown and "these two models" not in shown


VERDICTS = {
    (1.0, 0.01, 0.9): "a and b are alike by cka at x: 1.000 ± 0.021 (1 is identical, different samples score 0.100).",
    (0.9, 0.1, 0.9): "a and b are alike to within noise by cka at x: 0.900 ± 0.213",
    (0.9, 0.01, 0.9): "a and b differ by more than noise by cka at x: 0.900 ± 0.021",
    (0.1, 0.01, 0.0): "a and b are as different as representations of different samples, within noise, by cka at x",
    (0.4, 0.4, 0.1): "a and b may be identical or as different as representations of different samples, within noise",
    (0.9, math.nan, 0.9): "a and b have no interval by cka at x, so whether they differ is unknown: 0.900 (1 is",
}


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ("old/x.npy", "new/y.npy", ("x", "y")),
        ("old/x.npy", "new/x.npy", ("old/x", "new/x")),
        ("a/run/x.npy", "b/run/x.npy", ("x (A)", "x (B)")),
        ("x.npy", "new/x.npy", ("here/x", "new/x")),
        ("old/../x.npy", "../new/x.npy", ("here/x", "new/x")),
        ("x.npy", "./x.npy", ("x (A)", "x (B)")),
    ],
)
def test_equal_names_are_told_apart(
    first: str, second: str, labels: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places = [Place(path, Path(path), Path(path).stem) for path in (first, second)]
    assert tuple(place.label for place in told_apart(places)) == labels


@pytest.mark.parametrize("numbers", VERDICTS)
def test_one_pair_of_sites_has_a_verdict(numbers: tuple[float, float, float]) -> None:
    value, stderr, calibrated = numbers
    row = row_of("x", value, stderr) | {"calibrated": calibrated}
    assert verdict([row], CKA(), None, "a", "b", True).startswith(VERDICTS[numbers])


def test_a_layer_without_a_calibrated_error_may_be_as_far_as_the_null() -> None:
    rows = [row_of("near", 0.9), row_of("far", 0.12), row_of("wide", -0.02, 0.25) | {"calibrated_stderr": math.nan}]
    rows[1] |= {"calibrated": 0.02}
    words = verdict(rows, CKA(), None, "a", "b")
    assert "At far and wide, cka cannot tell them from models that read different text." in words


def test_a_verdict_by_the_calibrated_value_says_why_the_interval_is_not_enough() -> None:
    """The interval of 0.3 does not hold the null, 0.1, and that of the calibrated value, which counts its error, 0."""
    rows = [row_of("near", 0.9), row_of("far", 0.3) | {"calibrated": 0.2, "calibrated_stderr": 0.1}]
    end = "cka cannot tell them from models that read different text, and the null is uncertain too."
    assert f"At far, {end}" in verdict(rows, CKA(), None, "a", "b")
    assert "(1 is identical, different text scores 0.100), and the null" in verdict(rows[1:], CKA(), None, "a", "b")
    beyond = row_of("far", -0.1) | {"calibrated": -0.2}
    assert "uncertain too" not in verdict([rows[0], beyond], CKA(), None, "a", "b")


def row_of(site: str, value: float, stderr: float = 0.01) -> dict[str, Any]:
    row = {"site_a": site, "site_b": site, "value": value, "dissimilarity": 1 - value, "stderr": stderr, "n_units": 16}
    return row | {"null": 0.1, "calibrated": 0.9, "calibrated_stderr": stderr, "note": "", "first_pc_a": 0.74}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, math.nan, 1.0], "cka is 1 at every layer with a value to three digits; l1 has no value."),
        ([1.0, 1.0], "cka is 1 at every layer to three digits."),
        (
            [0.9, math.nan, 0.8],
            "a and b are most alike at l0 (cka 0.900 ± 0.021) and differ most at l2 (0.800 ± 0.021; 1 is identical, "
            "different samples score 0.100); l1 has no value. At l0, one direction has 74% of the variance and decides "
            "cka. At l2, one direction has 74% of the variance and decides cka.",
        ),
        (
            [math.nan, 0.9, *[math.nan] * 4],
            "a and b differ by more than noise by cka at l1: 0.900 ± 0.021 (1 is identical, different samples score "
            "0.100); l0, l2, l3 and 2 other pairs of layers have no value. At l1, one direction has 74% of the "
            "variance and decides cka.",
        ),
        (
            [0.9, 0.9],
            "a and b are equally far apart at every layer (cka 0.900 ± 0.021; 1 is identical, different samples score "
            "0.100). At l0, one direction has 74% of the variance and decides cka.",
        ),
        (
            [0.9, 0.87],
            "a and b are most alike at l0 (cka 0.900 ± 0.021) and differ most at l1 (0.870 ± 0.021; 1 is identical, "
            "different samples score 0.100), with intervals that overlap. At l0, one direction has 74% of the variance "
            "and decides cka. At l1, one direction has 74% of the variance and decides cka.",
        ),
    ],
    ids=["one missing", "same", "differ", "one left", "equal", "nearly equal"],
)
def test_a_verdict_names_layers_without_a_value_and_each_other_once(values: list[float], words: str) -> None:
    rows = [row_of(f"l{number}", value) for number, value in enumerate(values)]
    assert verdict(rows, CKA(), None, "a", "b", True) == words


def test_equal_values_have_the_widest_interval_and_are_seen_beside_all_of_their_nulls() -> None:
    rows = [row_of("l0", 0.5), row_of("l1", 0.5, 0.02) | {"null": 0.4}, row_of("l2", 0.5) | {"null": math.nan}]
    words = "a and b are equally far apart at every layer (cka 0.500 ± 0.043; 1 is identical, different samples score "
    assert verdict(rows, CKA(), None, "a", "b", True).startswith(words + "0.100 to 0.400).")


def test_values_beyond_identical_are_not_identical() -> None:
    """CKA of few sequences may be above 1."""
    for rows in ([row_of("l0", 1.03), row_of("l1", 1.02)], [row_of("l0", 1.03)]):
        words = verdict(rows, CKA(), None, "a", "b", True)
        assert "cka is 1" not in words and "are alike by" not in words


def test_values_that_are_all_missing_are_a_mistake(capsys: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(64, 8)))
    np.save(tmp_path / "constant.npy", np.ones((64, 8)))
    code, out, error = compare(capsys, tmp_path / "a.npy", tmp_path / "constant.npy", "--measures", "cka")
    assert code == 2 and "nothing was compared: zero variance" in error and "no value" in out


@pytest.mark.parametrize("order", [1, -1])
def test_files_of_different_shapes_are_both_named(capsys: Any, tmp_path: Path, order: int) -> None:
    shapes = {"a": (200, 8), "b": (20, 4, 8)}
    for name, shape in shapes.items():
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=shape))
    code, _, error = compare(capsys, *[tmp_path / f"{name}.npy" for name in [*shapes][::order]], "--measures", "cka")
    assert code == 2 and "b.npy: (20, 4, 8)" in error and "a.npy, (200, 8)" in error


def test_tokens_from_a_file(capsys: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(300, size=(8, 12)))
    arguments = ("--tokens", tmp_path / "tokens.npy", "--measures", "cka")
    assert compare(capsys, folders["model"], folders["seed"], *arguments)[0] == 0
    code, _, err = compare(capsys, folders["model"], folders["vocabulary"], *arguments)
    assert code == 2 and "vocabularies of different sizes (model 300, vocabulary 320), so the same tokens" in err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model").symlink_to(folders["vocabulary"])
    code, _, err = compare(capsys, folders["model"], tmp_path / "other" / "model", *arguments)
    assert code == 2 and f"({folders['model'].parent.name}/model 300, other/model 320), so the same tokens" in err
    np.save(tmp_path / "tokens.npy", np.full((8, 12), 300))
    code, _, err = compare(capsys, folders["model"], folders["seed"], *arguments)
    assert code == 2 and "expected tokens 0 to 299" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "{model}"], "there is no .*nowhere; expected hf:FOLDER"),
        (["hf:org/model@main", "{model}"], "was not downloaded before.*HF_HUB_OFFLINE"),
        (["{model}", "{seed}", "--measures", "ckaa"], "no measure ckaa; choose from .*cka"),
        (["{model}", "{seed}", "--sites", "blocks.*.nothing"], "nothing"),
        (["{model}", "{seed}", "--text", "{short}"], "at least 4 sequences of 16 are needed"),
        (["{model}", "{seed}", "--text", "{model}"], "Is a directory; give a UTF-8 text file"),
        (["{model}", "{no_tokenizer}"], "has no tokenizer.json.*--tokens FILE.npy"),
        (["{model}", "{activations}"], "pass its tokens with --tokens FILE.npy"),
        (["{activations}", "{activations}", "--text", "{short}"], "so nothing is read; leave out --text"),
        (["{activations}", "{activations}", "--block-by-block", "--pairs", "all"], "leave one of them out"),
        (["{model}", "{text_as_array}", "--tokens", "{tokens}"], "expected the one array of np.save, found another"),
        (["{model}", "{model}", "--tokens", "{text_as_array}"], "found another kind of file; expected a .npy file of"),
        (["{images}", "{images}"], r"features at images; reshape it to \(sequences, positions, features\)$"),
    ],
)
def test_a_mistake_is_explained(
    capsys: Any, folders: dict[str, Path], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "short.txt").write_text("too short")
    shutil.copytree(folders["model"], tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    np.save(tmp_path / "a.npy", np.zeros((64, 8)) + np.eye(8)[np.arange(64) % 8])
    (tmp_path / "text.npy").write_text("too short")
    np.save(tmp_path / "images.npy", np.ones((8, 3, 4, 4)))
    np.save(tmp_path / "tokens.npy", np.ones((8, 8), dtype=int))
    places = {**folders, "short": tmp_path / "short.txt", "no_tokenizer": tmp_path / "bare"}
    files = {"activations": "a.npy", "text_as_array": "text.npy", "images": "images.npy", "tokens": "tokens.npy"}
    places |= {name: tmp_path / file for name, file in files.items()}
    filled = [argument.format(**places) for argument in arguments]
    reads_text = not any(name in "".join(arguments) for name in ("--tokens", "activations", "images"))
    text = ["--text", folders["text"]] if reads_text and "--text" not in filled else []
    code, out, err = compare(capsys, *filled, *(FEW if reads_text else []), *text)
    assert code == 2 and not out
    assert re.search(message, err.strip(), re.DOTALL), err
    assert "pickle" not in err and "nn.Module" not in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sequences", "3"], "--sequences: expected a whole number, 4 or more, found 3"),
        (["--length", "x"], "--length: expected a whole number, 1 or more, found x"),
        (["--measures", ""], "--measures: expected one or more names"),
        (["--fail-over", "cka=nan"], "expected MEASURE=VALUE such as cka=0.05, found cka=nan"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_refused(capsys: Any, more: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "a", "b", *more])
    assert message in capsys.readouterr().err


def test_what_two_files_of_activations_do_not_need_is_refused(capsys: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(64, 8)))
    code, _, err = compare(capsys, tmp_path / "a.npy", tmp_path / "a.npy", "--sequences", 8, "--length", 8)
    assert code == 2 and "leave out --sequences and --length" in err


def test_the_sequences_that_make_files_of_activations_differ_are_named(capsys: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(32, 4, 8))
    y = x.copy()
    y[17] = np.random.default_rng(1).normal(size=(4, 8)) * 3
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", y)
    arguments = (tmp_path / "a.npy", tmp_path / "b.npy", "--influence", "--measures", "cka")
    assert json.loads(compare(capsys, *arguments, "--format", "json")[1])["text"][0] == "sequence 17"
    assert "most in sequence 17, counted from 0" in compare(capsys, *arguments)[1]
    for name, rows in {"a": x, "b": y}.items():
        np.save(tmp_path / f"{name}.npy", rows[:, 0])
    assert "most in row 17, counted from 0" in compare(capsys, *arguments)[1]


def test_p_values_are_in_every_form(capsys: Any, folders: dict[str, Path]) -> None:
    arguments = (folders["model"], folders["seed"], "--text", folders["text"], *FEW, "--measures", "cka")
    assert " p\n" in re.sub(" +", " ", compare(capsys, *arguments, "--nulls", 19)[1].replace("┃", " "))
    assert "& p &" in compare(capsys, *arguments, "--nulls", 19, "--format", "latex")[1]
    rows = csv.DictReader(io.StringIO(compare(capsys, *arguments, "--nulls", 19, "--format", "csv")[1]))
    assert all(0 < float(row["p"]) <= 1 for row in rows)
    assert "& p &" not in compare(capsys, *arguments, "--format", "latex")[1]


def test_nobody_reads_on(folders: dict[str, Path]) -> None:
    command = [
        sys.executable,
        "-m",
        "dissimilarity",
        "compare",
        *[folders["model"]] * 2,
        "--text",
        folders["text"],
        *FEW,
    ]
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([*map(str, command)], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert run.returncode == 0 and not run.stderr


def test_saved_activations_are_held_to_the_tokens(capsys: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folders["model"]).eval()
    tokens = torch.randint(300, (8, 12), generator=torch.Generator().manual_seed(0))
    for name, read in (("a", tokens), ("b", tokens.flip(0))):
        save_activations(model, read, tmp_path / f"{name}.safetensors")
        np.save(tmp_path / f"{name}.npy", read.numpy())
    saved, more = tmp_path / "a.safetensors", ("--measures", "cka")
    assert compare(capsys, folders["model"], saved, "--tokens", tmp_path / "a.npy", *more)[0] == 0
    code, _, err = compare(capsys, folders["model"], saved, "--tokens", tmp_path / "b.npy", *more)
    assert code == 2 and "expected the same text on both sides, found other tokens" in err
    assert compare(capsys, saved, tmp_path / "b.safetensors", *more)[0] == 2
    assert compare(capsys, saved, saved, *more)[0] == 0


def test_block_by_block_prints_the_same(capsys: Any, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloaded, "RESIDENT", 64)
    arguments = ("model", "planted", "--measures", "cka,kl", "--pairs", "matched")
    whole = as_json(capsys, folders, *arguments)
    monkeypatch.setattr(memory, "memory_of_all", lambda *sizes: {"weights in float32": 10**15})
    stepped = as_json(capsys, folders, *arguments, "--block-by-block")
    assert stepped["verdict"] == whole["verdict"] and "differ from blocks.1.resid_post on" in stepped["verdict"]
    for one, other in zip(stepped["rows"], whole["rows"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_a_model_that_does_not_run_in_step_is_run_as_a_whole(
    capsys: Any, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("model", "planted", "--measures", "cka,kl", "--influence")
    stepped = as_json(capsys, folders, *arguments)
    steps = comparison.compare_in_step

    def broken(*more: Any) -> Any:
        steps(*more)
        raise NotInStepsError("no blocks")

    monkeypatch.setattr(comparison, "compare_in_step", broken)
    whole = as_json(capsys, folders, *arguments)
    assert whole["verdict"] == stepped["verdict"] and whole["text"] == stepped["text"]
    for one, other in zip(whole["rows"], stepped["rows"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_another_order_of_summation_is_rounding(capsys: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))

    def permuted(name: str, weight: torch.Tensor) -> torch.Tensor:
        if "_proj" not in name or "mlp" not in name:
            return weight
        return weight[:, order].contiguous() if "down" in name else weight[order]

    changed(folders["rounded"], tmp_path / "permuted", permuted)
    places = {**folders, "permuted": tmp_path / "permuted"}
    result = as_json(capsys, places, "rounded", "permuted", "--measures", "cka")
    assert "alike to within rounding at all 3 sites" in result["verdict"]
    assert max(row["relative_error"] for row in result["rows"]) > 0


def test_of_a_long_text_evenly_spaced_parts_are_read(
    capsys: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "WHOLE", 1000)
    (tmp_path / "long.txt").write_text("".join(f"naïve things of {number} 日本語 " for number in range(3000)))
    arguments = (folders["model"], folders["seed"], "--text", tmp_path / "long.txt", *FEW, "--measures", "cka")
    code, out, err = compare(capsys, *arguments, "--format", "json")
    assert code == 0, err
    probe = json.loads(out)["probe"]
    assert probe["text"] == f"16 parts of {tmp_path / 'long.txt'}" and probe["sequences"] == 16
    _, text, _ = texts.read_text(tmp_path / "long.txt", 16, 16)
    numbers = [int(word) for word in text.split() if word.isdecimal()]
    assert numbers == sorted(numbers) and max(numbers) - min(numbers) > 2700 and len(text) < 16 * 16 * 16
    assert set(text.split()) - set(map(str, numbers)) == {"naïve", "things", "of", "日本語"}


def test_sizes_come_from_the_headers_of_files(folders: dict[str, Path]) -> None:
    size = memory.size_of(folders["model"])
    block = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16
    assert size == memory.Size(3 * block + 2 * 300 * 16 + 16, max(block, 300 * 16), 16, 3, 300)
    need = memory.memory_of_all([size, size], 1024, matched=True)
    assert need["weights in float32"] == 8 * size.weights
    assert sum(memory.memory_of_blocks([size, size], 64).values()) < sum(need.values())
    available = memory.available_memory()
    assert available is None or available > 0


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"memory.max": "5000", "memory.current": "3000", "memory.stat": "inactive_file 500\n"}.items():
        (tmp_path / name).write_text(text)
    assert memory.free_of_container(tmp_path, "memory.max", "memory.current") == 2500
    (tmp_path / "memory.max").write_text("max")
    assert memory.free_of_container(tmp_path, "memory.max", "memory.current") is None


def test_too_little_memory_is_foreseen(capsys: Any, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    code, _, err = compare(capsys, folders["model"], folders["seed"])
    assert code == 2 and "0.0 GB are free; type --block-by-block with a small number of --sequences" in err
    monkeypatch.setattr(memory, "available_memory", lambda: 10**9)
    monkeypatch.setattr(memory, "memory_of_all", lambda *sizes: {"weights in float32": 54 * 10**9})
    code, _, err = compare(capsys, folders["model"], folders["seed"], *FEW)
    assert code == 2 and "takes about 54.0 GB of memory (weights in float32 54.0 GB), and 1.0 GB are free; type " in err
    assert "--block-by-block, which takes about 0.5 GB" in err


def test_the_terminal_shows_verdict_layers_and_what_it_was_measured_on(capsys: Any, folders: dict[str, Path]) -> None:
    _, out, _ = compare(capsys, folders["model"], folders["planted"], "--text", folders["text"], *FEW)
    words = " ".join(out.split())
    assert words.startswith("model and planted are alike to within rounding up to blocks.0.resid_post")
    assert "On 16 sequences of 16 tokens from" in words and "95% intervals cover other text" in words
    assert all(name in out for name in ("cka", "procrustes", "mutual_knn", "relative error"))


def test_help_answers_without_torch() -> None:
    code = "import sys; from dissimilarity.cli.command import main, parser; parser(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_note_for_all_layers_is_said_once(capsys: Any, folders: dict[str, Path]) -> None:
    arguments = (folders["model"], folders["planted"], "--text", folders["text"], "--sequences", 4, "--length", 4)
    _, out, err = compare(capsys, *arguments, "--measures", "cka,procrustes", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert "pass more samples" not in rows[-1]["note"] and err.count("procrustes is biased toward similar") == 1, rows
    assert float(rows[1]["relative_error"]) > 0 and float(rows[1]["noise"]) > 0
    told = json.loads(compare(capsys, *arguments, "--measures", "cka,procrustes", "--format", "json")[1])
    assert [f"note: {note}" for note in told["notes"]] == err.splitlines()
    latex = compare(capsys, *arguments, "--measures", "cka,procrustes", "--format", "latex")[1]
    assert latex.count(told["notes"][0]) == 1 and r"relative\_error & noise & cosine & largest" in latex
