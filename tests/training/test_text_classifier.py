"""Runs of task=classify: their initial models, their files, and that they continue as if never interrupted."""

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import settings
import train
from analyze import analyze
from data.text_classification import TextClassificationDataModule
from dissimilarity import CKA, compare
from dissimilarity.probe.pooling import real_positions
from dissimilarity.tables.curves import read_curves
from launch.cli.compose import compose
from launch.cli.validate import validate
from launch.run.folder import read_json
from launch.run.initial_weights import resolve_init
from launch.run.summary import show_end
from models import references
from models.text_classifier import TextClassifier
from tests.helpers.families import family_config, optim_config
from tests.helpers.other_tokenizers import bert, word_pieces
from tests.helpers.tiny_run import in_process, kill_at, tiny


def tiny_classifier(folder: Path, **changes: Any) -> DictConfig:
    """Return the config of a run of 9 steps on a few pairs that begins from the language model runs/tiny."""
    overrides = {
        "task": "classify",
        "init_from": "runs/tiny",
        "data.source.train": 60,
        "data.source.val": 20,
        "data.source.ood": 10,
        "data.n_ctx": 16,
        "data.batch_size": 4,
        "runs_dir": folder / "runs",
        "name": "tuned",
        "schedule.every": 4,
        "schedule.heatmap_every": 8,
        "probe.sequences": 16,
        "trainer.max_steps": 9,
        "trainer.val_check_interval": 3,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "logger": "none",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return compose([f"{key}={value}" for key, value in overrides.items()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the language model runs/tiny, its fine-tuning runs/tuned, and a BERT with random weights."""
    folder = tmp_path_factory.mktemp("tuned")
    assert in_process(tiny(folder)) == 0
    assert in_process(tiny_classifier(folder)) == 0
    bert(folder / "bert", word_pieces(), max_position_embeddings=16)
    return folder


def weights(folder: Path, name: str, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    path = folder / "runs" / name / "checkpoints" / f"{checkpoint}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def data_of(config: Any) -> TextClassificationDataModule:
    data = settings.instantiate(config.data)
    data.setup()
    return data


def test_a_run_begins_with_the_weights_sizes_and_tokens_of_its_start(folder: Path) -> None:
    config: Any = OmegaConf.load(folder / "runs/tuned/config.yaml")
    assert (config.width, config.depth, config.model.family, config.init_from) == (16, 1, "solu", "runs/tiny")
    assert config.model.n_ctx == 16 and config.data.tokenizer.path.endswith("runs/tiny/tokenizer.json")
    stored = weights(folder, "tuned", "step_0000000")
    initial = {name.removeprefix("net.net."): weight for name, weight in stored.items()}
    for name, weight in weights(folder, "tiny").items():
        if "unembed" not in name:
            assert torch.equal(initial.pop(name.removeprefix("net.")), weight), name
    assert set(initial) == {"net.head.weight", "net.head.bias"}
    start = read_json(folder / "runs/tuned/provenance.json")["init_from"]
    assert start["sha256"] == references.load("runs/tiny", folder / "runs").provenance["sha256"]


def test_the_accuracies_equal_counted_ones(folder: Path) -> None:
    summary = read_json(folder / "runs/tuned/summary.json")
    data = data_of(OmegaConf.load(folder / "runs/tuned/config.yaml"))
    reference = references.load("runs/tuned", folder / "runs")
    assert reference.labels == ("entailment", "non-entailment") == tuple(summary["labels"])
    assert list(summary["splits"]) == ["val", *data.ood] and len(data.ood) == 6
    for split, accuracies in summary["splits"].items():
        tokens, labels = data.encoded(split)
        right = [int(reference.model(row[None]).argmax()) == label for row, label in zip(tokens, labels, strict=True)]
        assert accuracies == pytest.approx(sum(right) / len(right)), split
    assert summary["val_accuracy"] == summary["splits"]["val"]
    truncated = read_json(folder / "runs/tuned/provenance.json")["data"]["truncated"]
    assert truncated == data.truncated and list(truncated) == ["train", "val", *data.ood]
    tokens, labels = data.encoded("val")
    logits = reference.model(tokens)
    expected = -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    assert summary["val_loss"] == pytest.approx(expected.item(), rel=1e-4)
    columns = (folder / "runs/tuned/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/loss", "val/accuracy", "train/loss", *(f"ood/{split}/accuracy" for split in data.ood)} <= set(columns)


def test_classes_that_a_split_merges_count_as_one() -> None:
    """Predictions are 0, 1, 2, 2 of labels a, b, c; `other` has classes {a} and {b, c} and labels 0, 1, 1, 0."""
    classes = {"val": [0, 1, 2], "other": [0, 1, 1]}
    net = family_config("gelu", 64, 1)
    module = TextClassifier(net, optim_config(), 9, ["a", "b", "c"], ["other"], classes, "last", 0, True)
    logits = torch.eye(3)[[0, 1, 2, 2]]
    module.net.forward = lambda tokens: logits
    logged: dict[str, float] = {}
    module.log = lambda name, value: logged.update({name: float(value)})  # type: ignore
    tokens = torch.ones(4, 5, dtype=torch.int64)
    module.validation_step((tokens, torch.tensor([0, 2, 2, 2])), 0, 0)
    module.validation_step((tokens, torch.tensor([0, 1, 1, 0])), 0, 1)
    module.on_validation_epoch_end()
    assert logged["val/accuracy"] == 0.75 and logged["ood/other/accuracy"] == 0.75


def test_a_killed_run_ends_in_the_weights_of_an_uninterrupted_one(folder: Path) -> None:
    changed = partial(tiny_classifier, folder, name="killed")
    assert in_process(changed(), before=partial(kill_at, "on_train_batch_end", 6)) == -9
    assert in_process(changed()) == 0
    whole, pieced = weights(folder, "tuned"), weights(folder, "killed")
    assert whole.keys() == pieced.keys() and all(torch.equal(whole[name], pieced[name]) for name in whole)
    rows = [(folder / "runs" / name / "metrics.csv").read_text().splitlines() for name in ("tuned", "killed")]
    columns = [i for i, name in enumerate(rows[0][0].split(",")) if not re.search("seconds|share", name)]
    assert len({tuple(tuple(row.split(",")[i] for i in columns) for row in table) for table in rows}) == 1


def test_a_language_model_starts_from_another(folder: Path) -> None:
    assert in_process(tiny(folder, name="more", init_from="runs/tiny", width="128", trainer__max_steps=2)) == 0
    initial, before = weights(folder, "more", "step_0000000"), weights(folder, "tiny")
    assert initial.keys() == before.keys() and all(torch.equal(initial[name], before[name]) for name in initial)
    assert OmegaConf.load(folder / "runs/more/config.yaml").width == 16


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_an_encoder_of_hugging_face_is_tuned_and_read_again(folder: Path, pooling: str) -> None:
    cfg = tiny_classifier(folder, name=f"bert-{pooling}", init_from=f"hf:{folder}/bert", task__pooling=pooling)
    assert in_process(cfg) == 0
    config: Any = OmegaConf.load(folder / f"runs/bert-{pooling}/config.yaml")
    assert (config.model.family, config.width, config.depth) == ("pretrained", 24, 2)
    assert config.optim.lr_matrices == config.optim.lr_other == config.optim.lr_pretrained
    reference = references.load(f"runs/bert-{pooling}", folder / "runs")
    tokens, labels = data_of(config).encoded("val")
    right = (reference.model(tokens).argmax(1) == labels).float().mean().item()
    assert read_json(folder / f"runs/bert-{pooling}/summary.json")["val_accuracy"] == pytest.approx(right)


def test_without_an_initial_model_a_classifier_is_trained_from_scratch(folder: Path) -> None:
    sizes = {"width": 16, "depth": 1, "model__d_head": 8, "data__tokenizer__vocab_size": 300}
    cfg = tiny_classifier(folder, init_from="null", name="null", trainer__max_steps=2, **sizes)
    assert settings.run_name(cfg) == "solu-w16-d1-heuristics-s0"
    assert in_process(cfg) == 0
    assert "init_from" not in read_json(folder / "runs/solu-w16-d1-heuristics-s0/provenance.json")


def test_the_command_line_must_agree_with_the_initial_model(folder: Path) -> None:
    def settled(*typed: str, **changes: Any) -> Any:
        return resolve_init(tiny_classifier(folder, **changes), typed)

    assert settled("width=16", "model=solu", "depth=1", "data=heuristics") is not None
    for typed, problem in {
        "width=64": "which has width=16; leave width= out",
        "model=gelu": "which has model=solu",
        "depth=3": "which has depth=1",
        "model.d_head=4": "which has its own model",
        "data/tokenizer=hub": "which has its own tokenizer",
        "data.tokenizer.vocab_size=300": "which has its own tokenizer",
    }.items():
        with pytest.raises(ValueError, match=re.escape(typed) + " and init_from=runs/tiny: .*" + re.escape(problem)):
            settled(typed)
    with pytest.raises(ValueError, match="data.n_ctx=32: runs/tiny reads at most 16 tokens; type data.n_ctx=16"):
        settled(data__n_ctx=32, probe__length=16)
    with pytest.raises(ValueError, match="no run folder .*did you mean runs/tuned"):
        settled(init_from="runs/tund")
    with pytest.raises(ValueError, match="init_from=runs/tuned: this is a classifier without next-token logits"):
        resolve_init(tiny(folder, init_from="runs/tuned"), [])
    with pytest.raises(ValueError, match="bert was saved without next-token logits"):
        resolve_init(tiny(folder, init_from=f"hf:{folder}/bert"), [])


@pytest.mark.parametrize("change", ["went on", "gone", "another tokenizer"])
def test_a_run_continues_even_if_its_initial_model_is_gone(change: str, folder: Path) -> None:
    name = f"moved-{change.replace(' ', '-')}"
    cfg = partial(tiny_classifier, folder, name=name, init_from=f"runs/{name}-start/last.ckpt")
    start = folder / "runs" / f"{name}-start"
    start.mkdir()
    for source in ("tiny/checkpoints/last.ckpt", "tiny/tokenizer.json"):
        (start / Path(source).name).write_bytes((folder / "runs" / source).read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert in_process(cfg(), before=partial(kill_at, "on_train_batch_end", 6)) == -9
        if change == "went on":
            other = torch.load(start / "last.ckpt", weights_only=True)
            other["state_dict"]["net.embed.weight"] += 1
            torch.save(other, start / "last.ckpt")
        elif change == "gone":
            shutil.rmtree(start)
        else:
            (start / "tokenizer.json").write_text("{")
        assert in_process(cfg()) == 0
        run = folder / "runs" / name
        assert read_json(run / "summary.json")["status"] == "finished"
        shutil.rmtree(run / "checkpoints")
        assert train.train(cfg())["state"] == "finished"
        with pytest.raises(ValueError, match="width=32 and init_from=.*which has width=16"):
            resolve_init(cfg(), ["width=32"], run)


def test_stitching_while_a_classifier_trains_is_rejected_with_the_reason(folder: Path) -> None:
    with pytest.raises(ValueError, match="the stitching penalty is a next-token loss"):
        train.train(tiny_classifier(folder, name="stitched", callbacks="stitching"))


def test_text_without_labels_is_rejected_for_classification(folder: Path) -> None:
    with pytest.raises(ValueError, match="this data has no labels; type data=heuristics"):
        train.train(tiny(folder, name="unlabeled", task="classify", probe__length=16))


@pytest.mark.parametrize(
    ("start", "name"),
    {
        "runs/base": "base-heuristics-s0",
        "runs/base@512": "base-512-heuristics-s0",
        "hf:org/mini@main": "mini-main-heuristics-s0",
        "tl:solu-1l": "solu-1l-heuristics-s0",
        "models/base.safetensors": "base-heuristics-s0",
    }.items(),
)
def test_runs_are_named_after_start_data_and_seed(start: str, name: str) -> None:
    cfg = compose(["task=classify", f"init_from={start}"])
    assert settings.run_name(cfg) == name
    validate(cfg)
    assert settings.run_name(compose(["task=classify", f"init_from={start}", "seed=7"])) == name.replace("s0", "s7")


def test_two_classifiers_are_compared_on_their_texts_without_the_padding(folder: Path, tmp_path: Path) -> None:
    names = ["runs/tuned", "runs/tiny"]
    places = [
        f"models=[{','.join(names)}]",
        f"runs_dir={folder / 'runs'}",
        f"cache_dir={folder / 'cache'}",
        f"results_dir={tmp_path}",
    ]
    first, second = (references.load(name, folder / "runs").model for name in names)
    tokens = data_of(OmegaConf.load(folder / "runs/tuned/config.yaml")).probe(16, 16)
    for include, mask in ((False, first.real(tokens)), (True, None)):  # type: ignore
        options = [f"include_padding={include}", f"name={include}"]
        rows = pq.read_table(analyze(compose([*places, *options], "analyze")) / "table.parquet").to_pylist()
        expected = compare(first, second, tokens, "blocks.*.resid_post", [CKA()], n_units=8, mask=mask).to_pylist()
        (value,) = {row["value"] for row in rows if row["measure"] == "cka"}
        assert value == pytest.approx(expected[0]["value"], abs=1e-6), include
    with pytest.raises(ValueError, match="runs/tuned: a classifier, whose head other libraries do not have"):
        analyze(compose([places[0], *places[1:], "study=export"], "analyze"))


def test_the_results_of_a_run_are_shown_by_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = read_json(folder / "runs/tuned/summary.json")
    show_end(folder / "runs/tuned", summary, "next")
    shown = capsys.readouterr().out
    assert f"{summary['val_accuracy']:.1%} in distribution" in shown and "bits/byte" not in shown
    for split in list(summary["splits"])[1:]:
        assert re.search(rf"{split} +{summary['splits'][split]:.1%}", shown)


def test_padding_of_the_probe_set_is_ignored_unless_included(folder: Path) -> None:
    """The run begins from random weights, since no pair fits the 16 tokens of runs/tiny."""
    wide = {"init_from": "null", "width": 16, "depth": 1, "model.d_head": 8, "data.n_ctx": 48, "trainer.max_steps": 1}
    for name, padding in (("masked", False), ("padded", True)):
        assert in_process(tiny_classifier(folder, name=name, include_padding=padding, **wide)) == 0
    config: Any = OmegaConf.load(folder / "runs/masked/config.yaml")
    tokens = data_of(config).probe(16, config.probe.length)
    model: Any = references.load("runs/masked", folder / "runs").model
    real = int(model.real(tokens).sum())
    assert real < 0.9 * tokens.numel()
    for name, expected in (("masked", real), ("padded", tokens.numel())):
        rows = [row for row in read_curves(folder / "runs" / name).to_pylist() if row["measure"] == "cka"]
        assert rows and {row["n_samples"] for row in rows} == {expected} and not any(row["note"] for row in rows)


@pytest.fixture(scope="module")
def encoders(folder: Path) -> tuple[str, str]:
    """Return URIs of two encoders with one tokenizer, for texts shorter than their maximum."""
    tokenizer = word_pieces()
    for name, width in (("one", 24), ("two", 16)):
        bert(folder / name, tokenizer, hidden_size=width)
    return f"hf:{folder}/one", f"hf:{folder}/two"


def real_probe(data: TextClassificationDataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probe set of 16 sequences and which of its positions are text, some of them not."""
    tokens = data.probe(16, 48)
    real = real_positions(tokens, data.pad, data.end_is_pad)
    assert 100 < int(real.sum()) < tokens.numel()
    return tokens, real


def test_an_encoder_equals_its_own_start_while_it_is_tuned(folder: Path, encoders: tuple[str, str]) -> None:
    """The reference gets the padding mask of the classifier, so that both see the same texts."""
    changes = {"trainer__max_steps": 1, "references": f"[init,{encoders[0]}]", "name": "same-start", "data__n_ctx": 48}
    assert in_process(tiny_classifier(folder, init_from=encoders[0], **changes)) == 0
    rows = read_curves(folder / "runs/same-start").to_pylist()
    same = [row for row in rows if row["step"] == 0 and row["site_a"] == row["site_b"]]
    assert {row["reference"] for row in same} == {"init", "one"}
    assert {row["value"] for row in same if row["measure"] == "cka"} == {1.0}
    assert {row["value"] for row in same if row["measure"] == "procrustes"} == {0.0}
    _, real = real_probe(data_of(OmegaConf.load(folder / "runs/same-start/config.yaml")))
    assert {row["n_samples"] for row in same if row["measure"] == "cka"} == {int(real.sum())}


def test_studies_leave_the_padding_of_labeled_data_out(folder: Path, encoders: tuple[str, str]) -> None:
    size = ["data.source.train=60", "data.source.val=20", "data.source.ood=10", "data.n_ctx=48", "probe.length=48"]
    keys = ["study=compare", f"models=[{','.join(encoders)}]", "data=heuristics", "name=padded", "probe.sequences=16"]
    places = [f"runs_dir={folder}/runs", f"results_dir={folder}/results", f"cache_dir={folder}/cache"]
    config = compose([*keys, *size, *places], "analyze")
    rows = pq.read_table(analyze(config) / "table.parquet").to_pylist()
    models = [references.load(uri).model for uri in encoders]
    config.data.tokenizer = {"_target_": "data.tokenizers.TokenizerFile", "path": f"{folder}/one/tokenizer.json"}
    tokens, real = real_probe(data_of(config))
    expected = compare(models[0], models[1], tokens, measures=[CKA()], mask=real).to_pylist()
    values = [row["value"] for row in rows if row["measure"] == "cka"]
    assert values == pytest.approx([row["value"] for row in expected], abs=1e-6)
