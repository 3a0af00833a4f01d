"""analyze.py from the command line and as a function: what it finds, what it leaves, what it rejects."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import analyze as program
import settings
from analyze import analyze
from dissimilarity import CKA, compare
from dissimilarity.comparison.compare import COLUMNS
from dissimilarity.comparison.save import save_activations
from dissimilarity.inference.coverage import PROBE_TEXT
from dissimilarity.inference.jackknife import half_width
from launch.cli.compose import compose
from models.references import load
from tests.cli.test_cli import TRAIN
from tests.helpers.intervals import sentences_in
from tests.helpers.tiny_run import forked_command, in_process, tiny
from tests.helpers.tiny_text import write_jsonl


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs of different width and depth."""
    folder = tmp_path_factory.mktemp("runs")
    assert in_process(tiny(folder, name="a")) == 0
    assert in_process(tiny(folder, name="b", model="gelu", width=24, depth=2)) == 0
    return folder


def run(home: Path, results: Path, *overrides: str) -> Path:
    """Run the study in this process."""
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={results}"]
    return analyze(compose(["models=[runs/a,runs/b]", *places, *overrides], "analyze"))


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python analyze.py ARGUMENTS` in `folder`."""
    return forked_command(program, arguments, folder, COLUMNS="100")


def test_the_command_compares_two_runs(home: Path, blank_figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dissimilarity.figures.figure.write_figure", blank_figures)
    done = command(home, "study=compare", "models=[runs/a,runs/b]")
    assert done.returncode == 0, done.stderr
    for text in ("a and b: resid_post of block", "procrustes", "results/compare/summary.md", "measures=all"):
        assert text in done.stdout
    folder = home / "results" / "compare"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml",
        "figures",
        "provenance.json",
        "summary.md",
        "table.parquet",
    ]
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".pdf"}
    assert all(path.stat().st_size > 10_000 for path in (folder / "figures").iterdir())
    notes = json.loads((folder / "provenance.json").read_text())
    assert notes["models"]["a"]["step"] == 11 and len(notes["models"]["b"]["sha256"]) == 64
    trained = json.loads((home / "runs" / "a" / "provenance.json").read_text())
    assert notes["probe"]["sha256"] == trained["data"]["probe"], "the probe set of the run's own curves"


def test_the_table_is_that_of_compare_on_the_runs_probe_set(home: Path, tmp_path: Path) -> None:
    folder = run(home, tmp_path, "measures=fast", "probe.sequences=8")
    data = settings.instantiate(OmegaConf.load(home / "runs" / "a" / "config.yaml").data)
    data.prepare_data()
    data.setup()
    models = [load(f"runs/{name}", home / "runs").model for name in "ab"]
    expected = compare(models[0], models[1], data.probe(8, 16, "val"), measures=[CKA()], nulls=20)
    actual = pq.read_table(folder / "table.parquet")
    assert actual.column_names == ["model_a", "model_b", *COLUMNS]
    assert set(actual["model_a"].to_pylist()) == {"a"} and set(actual["model_b"].to_pylist()) == {"b"}
    assert actual.select(COLUMNS).to_pylist() == expected.to_pylist()
    summary = (folder / "summary.md").read_text()
    assert sentences_in(summary) == [PROBE_TEXT]
    (text,) = [line for line in summary.splitlines() if line.startswith("| blocks.0")]
    row = next(row for row in expected.to_pylist() if row["site_b"] == "blocks.1.resid_post")
    interval = f"{row['value']:.3f} ± {half_width(row['stderr'], row['n_units']):.3f}"
    null = f"{row['null']:.3f} (sd {row['null_sd']:.3f}) | {row['p']:.3f}"
    calibrated = f"{row['calibrated']:.3f} ± {half_width(row['calibrated_stderr'], row['n_units']):.3f}"
    assert text == f"| blocks.0.resid_post | blocks.1.resid_post | {interval} | {null} | {calibrated} |"


def test_every_pair_of_many_models_and_of_saved_activations(home: Path, tmp_path: Path) -> None:
    data = settings.instantiate(OmegaConf.load(home / "runs" / "a" / "config.yaml").data)
    data.prepare_data()
    data.setup()
    net = load("runs/a", home / "runs").model
    saved = save_activations(net, data.probe(16, 16), tmp_path / "saved.safetensors")
    models = f"models=[runs/a@0,runs/a,runs/b,{saved}]"
    folder = run(home, tmp_path / "results", models, "measures=fast", "name=many", "study.pairs=matched")
    assert folder == tmp_path / "results" / "many"
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    labels = ["a@0", "a", "b", "saved.safetensors"]
    couples = list(dict.fromkeys((row["model_a"], row["model_b"]) for row in rows))
    assert couples == [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    assert len(list((folder / "figures").glob("*.png"))) == 6 + 1
    (same,) = [row for row in rows if (row["model_a"], row["model_b"]) == ("a", "saved.safetensors")]
    assert same["value"] == pytest.approx(1, abs=1e-6) and same["calibrated"] == pytest.approx(1, abs=1e-6)


def of_activations(home: Path) -> Path:
    """Run the study of saved activations in a folder, which needs no run."""
    x = torch.randn(80, 6)
    for name, rows in (("x", x), ("y", x[:, :3] + 0.1 * torch.randn(80, 3))):
        (home / name).mkdir(exist_ok=True)
        np.save(home / name / "layer.npy", rows.numpy())
    return run(home, home / "results", f"models=[{home / 'x'},{home / 'y'}]")


def test_saved_activations_alone_need_no_run(tmp_path: Path) -> None:
    folder = of_activations(tmp_path)
    assert pq.read_table(folder / "table.parquet").num_rows == 3
    assert "layer | layer" in (folder / "summary.md").read_text()


def test_other_text_is_cut_into_the_tokens_of_the_first_run(home: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "other.jsonl", [f"{number} birds sing " * 60 for number in range(99)])
    data = ["data=files", f"data.source.paths=[{tmp_path / 'other.jsonl'}]", f"data.cache_dir={tmp_path / 'cache'}"]
    folder = run(home, tmp_path / "results", *data, "measures=fast")
    notes = json.loads((folder / "provenance.json").read_text())
    trained = json.loads((home / "runs" / "a" / "provenance.json").read_text())
    assert notes["probe"]["sha256"] != trained["data"]["probe"]


def test_a_text_file_is_the_probe_and_needs_no_validation_split(home: Path, tmp_path: Path) -> None:
    """One document has no part to hold out; models that compare on it are not trained on it."""
    (tmp_path / "note.txt").write_text("many birds sing in the woods " * 200)
    data = ["data=files", f"data.source.paths=[{tmp_path / 'note.txt'}]", f"data.cache_dir={tmp_path / 'cache'}"]
    folder = run(home, tmp_path / "results", *data, "measures=none", "+measure@measures.cka=cka")
    probe = json.loads((folder / "provenance.json").read_text())["probe"]
    assert (probe["split"], probe["sequences"]) == ("whole", 16)
    assert set(pq.read_table(folder / "table.parquet")["measure"].to_pylist()) == {"cka"}
    with pytest.raises(ValueError, match="expected documents in both splits"):
        run(home, tmp_path / "results", *data, "probe.split=val", "name=val")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models=[runs/a]"], r"models=\[runs/a\]: expected two models or more to compare, found 1"),
        (["models=[]"], "expected two models or more to compare, found 0"),
        (["models=[runs/a,runs/a]"], "runs/a is listed twice"),
        (["models=[runs/a,runs/bb]"], "reference 'runs/bb': there is no run folder .*did you mean runs/b"),
        (["models=[runs/a,gone.npy]"], "there is no file .*gone.npy"),
        (["probe.length=17"], "probe.length=17: runs/a reads at most 16 tokens; type probe.length=16"),
        (["probe.sequences=99999"], "expected 99999 probe sequences"),
        (["sites=blocks.5.resid_post"], "no site of the model matches 'blocks.5.resid_post'"),
        (["study.pairs=some"], "study.pairs=some: expected all or matched"),
        (["probe.split=test"], "probe.split=test: expected train, val or null"),
        (["device=tpu"], "device=tpu: expected auto, cpu, gpu, cuda or mps"),
        (["name=a/b"], "name='a/b'"),
    ],
)
def test_questions_that_cannot_be_answered_are_rejected_before_anything_is_written(
    overrides: list[str], message: str, home: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(home, tmp_path / "results", *overrides)
    assert os.listdir(tmp_path) == []


def test_a_run_of_another_tokenizer_is_compared_on_the_same_text(home: Path, tmp_path: Path) -> None:
    assert in_process(tiny(home, name="other", data__tokenizer__vocab_size=280)) == 0
    with pytest.raises(ValueError, match=r"runs/other reads at most 16 tokens.*type probe.length=\d+ or less"):
        run(home, tmp_path / "results", "models=[runs/a,runs/other]")
    options = ["probe.length=7", "align.unit=token", "measures=all", "models=[runs/a,runs/other,runs/b]"]
    folder = run(home, tmp_path / "results", *options)
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    notes = json.loads((folder / "provenance.json").read_text())["alignments"]
    assert [(note["model_a"], note["model_b"]) for note in notes] == [("a", "other"), ("other", "b")]
    assert notes[0]["share_a"] == notes[1]["share_b"] and 0.3 < notes[0]["share_a"] <= 1
    samples = {"cka": notes[0]["sequences"] * notes[0]["units"]}
    for row in rows:
        across = "other" in (row["model_a"], row["model_b"])
        if row["measure"] in ("kl", "jsd", "disagreement"):
            assert np.isnan(row["value"]) == across and ("token by token" in row["note"]) == across
        elif row["measure"].endswith("_crossfit"):  # half of so few samples may not determine a map
            assert np.isfinite(row["value"]) or "half" in row["note"], row
        else:
            assert np.isfinite(row["value"]), row
        if row["measure"] in samples:
            assert row["n_samples"] == (samples["cka"] if across else 16 * 7)
    summary = (folder / "summary.md").read_text()
    assert f"compared at {notes[0]['units']} common boundaries of their tokens" in summary


def test_code_that_a_strangers_run_names_is_not_run(home: Path, tmp_path: Path) -> None:
    path = home / "runs" / "a" / "config.yaml"
    text = path.read_text()
    try:
        path.write_text(text.replace("data.sources.", "strange.sources."))
        with pytest.raises(
            ValueError, match=r"runs/a/config.yaml: data.source._target_=strange.sources.*hydra.searchpath"
        ):
            run(home, tmp_path / "results")
    finally:
        path.write_text(text)


def test_results_of_another_command_are_kept(home: Path, tmp_path: Path) -> None:
    first = run(home, tmp_path, "measures=fast")
    run(home, tmp_path, "measures=fast")
    with pytest.raises(ValueError, match=r"results of another command:\n  study.n_units: None -> 4\n.*overwrite"):
        run(home, tmp_path, "measures=fast", "study.n_units=4")
    run(home, tmp_path, "measures=fast", "study.n_units=4", "overwrite=true")
    assert OmegaConf.load(first / "config.yaml").study.n_units == 4
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="thesis is not a folder of results"):
        run(home, tmp_path, "name=thesis")


@pytest.mark.parametrize("link", ["figures", "rows.jsonl", "summary.md"])
def test_results_stay_in_their_folder(link: str, tmp_path: Path) -> None:
    """Neither the notes of an earlier command nor links in the folder lead to files elsewhere."""
    folder, mine = of_activations(tmp_path), tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.png").write_text("mine")
    for figures in (["../../../mine/photo", str(mine / "photo"), 3, []], 3, {"a": 1}):
        notes = json.loads((folder / "provenance.json").read_text())
        (folder / "provenance.json").write_text(json.dumps({**notes, "figures": figures}))
        of_activations(tmp_path)
    shutil.rmtree(folder / link) if link == "figures" else (folder / link).unlink(missing_ok=True)
    (folder / link).symlink_to(mine if link == "figures" else mine / "photo.png")
    with pytest.raises(ValueError, match=rf"compare/{link} is a link to .*mine"):
        of_activations(tmp_path)
    assert [path.read_text() for path in mine.iterdir()] == ["mine"]


MISTAKES = {
    ("study=comprae",): ["study=comprae: no such choice; did you mean study=compare?"],
    ("modles=[a]",): ["there is no key modles; did you mean models?", "keys are: models, size, sizes, sites"],
    ("study.pair=all",): ["there is no key study.pair; did you mean study.pairs"],
    ("study.groups=4",): ["study.groups=4: there is no key study.groups; its name is now study.n_units"],
    ("study=generalization", "study.groups=null"): ["its name is now study.reference_groups"],
    ("study=generalization", "study.case=honest"): ["study.case=honest: expected", "honest is now seeds_only"],
    ("study=generalisation",): ["study=generalisation: the name is now study=generalization"],
    ("compare", "models=[a]"): ["compare: expected KEY=VALUE; did you mean study=compare?"],
    ("foo",): ["foo: expected KEY=VALUE, such as study=compare or models=[runs/a,runs/b]"],
    ("measures=cka",): ["for this measure alone type measures=none +measure@measures.cka=cka"],
    ("measures=al",): ["measures=al: no such choice; did you mean measures=all?"],
    ("probe.length=x",): ["probe.length=x: expected a whole number"],
    ("models=runs/a",): ["models=runs/a: expected a list, such as models=[runs/a]"],
    ("+modles=[a]",): ["+modles: unknown key"],
    ("-m", "study.n_units=4,8"): ["-m: sweeps are for trainings"],
    ("models=[runs/a]",): ["expected two models or more"],
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=" ".join)
def test_a_mistake_gets_a_message_and_no_traceback(mistake: tuple[str, ...], tmp_path: Path) -> None:
    done = command(tmp_path, *mistake)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "Error executing job" not in done.stderr
    for message in MISTAKES[mistake]:
        assert message in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job"), ("study=comprae",), ("modles=[]",)], ids=" ".join)
def test_nothing_heavy_is_imported_for_an_answer(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['analyze.py', *{list(arguments)}]; sys.path.insert(0, {str(TRAIN.parent)!r})\n"
        "import analyze\n"
        "try: analyze.run(analyze.main, 'analyze')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pytorch_lightning', 'wandb', 'datasets', 'matplotlib', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_shows_the_defaults_in_force(tmp_path: Path) -> None:
    cfg: Any = compose([], "analyze")
    shown = command(tmp_path, "--help").stdout
    for text in (
        "python analyze.py study=compare models=[runs/",
        "study            asymmetry, compare, curves, dynamics, export, generalization, report, scaling",
        "all, default, fast",
    ):
        assert text in shown
    assert "trainer" not in shown and "callbacks" not in shown
    keys = shown[shown.index("Keys, with") : shown.index("The same command")].split("\n\n")[1]
    defaults = dict(re.findall(r"([\w.]+)=(\S+)", keys.replace("data=stdlib", "")))
    assert len(defaults) > 10
    for key, value in defaults.items():
        assert OverridesParser.create().parse_override(f"{key}={value}").value() == OmegaConf.select(cfg, key), key


def test_studies_do_not_show_in_the_help_of_training(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(TRAIN), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert "study" not in done.stdout
