"""Hostile files that are broken, enormous, or links: one immediate message that names the file."""

import base64
import contextlib
import copy
import json
import math
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from scipy import stats

import train
from dissimilarity.inference.coverage import FIRST_TICK, PROBE_TEXT, REFERENCES
from dissimilarity.loading.untrusted import read_json, read_tokenizer
from dissimilarity.tables.files import sha256_of
from launch.cli.rules import Rule
from launch.run.config_file import read_yaml
from launch.run.form import PROVENANCE, SUMMARY, check_form, read_summary
from launch.run.initial_weights import resolve_init, tokenizer_of
from launch.run.links import refuse_links
from launch.run.references import find
from launch.run.summary import show_end
from models import references
from tests.cli.test_hostile import study
from tests.helpers.foreign import SHAPES, published_folder, random_net
from tests.helpers.hostile import Reducing, Runs, net, payload
from tests.helpers.tiny_run import in_process, tiny
from trusted import naming

HUGE = 4 * 10**9


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs.at(tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def runs(written: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return written.copied_to(tmp_path)


def of_the_net(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint["hyper_parameters"]["net"].update(changes)


def of_the_weights(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    def changed(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["net.embed.weight"] = change(checkpoint["state_dict"]["net.embed.weight"])

    return changed


CHECKPOINTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a vocabulary of billions": lambda c: c["hyper_parameters"].update(d_vocab=HUGE),
    "a width of billions": of_the_net(d_model=HUGE, d_head=HUGE),
    "a context of billions": of_the_net(n_ctx=HUGE),
    "angles for billions of positions": of_the_net(n_ctx=HUGE, rotary_share=1.0),
    "layers by the billion": of_the_net(n_layers=HUGE),
    "neurons by the billion": of_the_net(d_mlp=HUGE),
    "billions of rows that are one": lambda c: (
        c["hyper_parameters"].update(d_vocab=HUGE),
        c["state_dict"].update({"net.embed.weight": torch.zeros(1, 16).expand(HUGE, 16)}),
    ),
    "weights without numbers": of_the_weights(lambda weight: weight.to("meta")),
    "sparse weights": of_the_weights(lambda weight: weight.to_sparse()),
    "weights that are text": of_the_weights(lambda weight: "weights"),
    "format x": lambda c: c.update(format="x"),
    "format NaN": lambda c: c.update(format=float("nan")),
    "a format that is a list": lambda c: c.update(format=[2]),
    "a format that is true": lambda c: c.update(format=True),
    "a task of the clone": lambda c: c.update(module="runs.evil.payload.Net"),
    "a task that is a function": lambda c: c.update(module="models.checkpoints.torch.load"),
    "a task that is a number": lambda c: c.update(module=3),
    "a task that is a net": lambda c: c.update(module="models.transformer.Transformer"),
    "no net": lambda c: c["hyper_parameters"].pop("net"),
    "a net that is a list": lambda c: c["hyper_parameters"].update(net=[1]),
    "an optimizer in a tuple": lambda c: c["hyper_parameters"].update(optim=({"_target_": "os.system"},)),
    "an argument unknown": lambda c: c["hyper_parameters"].update(more=1),
    "a vocabulary that is true": lambda c: c["hyper_parameters"].update(d_vocab=True),
    "an integer of a thousand digits": lambda c: c["hyper_parameters"].update(d_vocab=10**5000),
    "settings that hold themselves": lambda c: c["hyper_parameters"]["net"].update(me=c["hyper_parameters"]),
    "a pickle that runs": lambda c: c.update(x=Reducing(Path("CANARY"))),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_rejected_before_it_takes_memory(name: str, runs: Runs) -> None:
    payload(runs.home, runs.home / "CANARY")
    path = runs.rewrite("solu", "last.ckpt", CHECKPOINTS[name])
    with pytest.raises(ValueError, match=r"last\.ckpt") as refusal:
        references.load("runs/solu", runs.home / "runs")
    assert len(str(refusal.value)) < 1200 and not (runs.home / "CANARY").exists() and path.exists()


@pytest.mark.parametrize("kind", ["compressed", "overlapping"])
def test_a_checkpoint_that_unpacks_to_more_than_it_is(kind: str, runs: Runs) -> None:
    path = runs.folder("solu") / "checkpoints" / "last.ckpt"
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED) as new:
        for name, content in parts.items():
            new.writestr(name, content)
        if kind == "overlapping":
            new.filelist += [info for info in new.filelist for _ in range(9)]
    with pytest.raises(ValueError, match=r"last\.ckpt: it is truncated or damaged"):
        references.load("runs/solu", runs.home / "runs")


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({"d_vocab": HUGE}, 1),
        ({"n_layers": HUGE}, 1),
        ({"n_ctx": HUGE, "rotary_share": 1.0}, 1),
        ({"d_vocab": "x"}, 1),
        ({}, "x"),
        ({}, None),
        ({}, [1]),
        ({}, 10**99),
        ({"activation": "x"}, 1),
    ],
)
@pytest.mark.parametrize("kind", ["PATH.safetensors", "hf:FOLDER"])
def test_metadata_is_rejected_before_it_takes_memory(kind: str, changes: Any, form: Any, runs: Runs) -> None:
    folder = runs.home / "folder"
    folder.mkdir()
    settings = {**net("solu"), "d_vocab": runs.d_vocab, **changes}
    path = runs.safetensors(folder / "model.safetensors", settings, form)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        references.load(str(path) if kind == "PATH.safetensors" else f"hf:{folder}")


@pytest.mark.parametrize("text", ["[1]", "[" * 10**5, '{"a":' * 10**5, "{", "null", '{"format": 1}', '{"settings": 1}'])
def test_metadata_of_another_form(text: str, runs: Runs) -> None:
    path = runs.home / "net.safetensors"
    save_file({"w": torch.ones(1)}, path, {"dissimilarity": text})
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        references.load(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_vocab": HUGE}, "do not fit the config"),
        ({"n_layers": HUGE}, "n_layers=4000000000"),
        ({"n_ctx": HUGE}, "do not fit the config"),
        ({"d_model": HUGE}, "expected n_heads"),
        ({"d_mlp": HUGE}, "do not fit the config"),
        ({"n_layers": -1}, "no n_layers"),
        ({"n_ctx": HUGE, "positional_embedding_type": "rotary", "rotary_dim": 4}, "n_ctx=4000000000"),
        ({"act_fn": ["solu"]}, "act_fn"),
        ({"deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}, "nested deeper"),
    ],
)
def test_a_folder_of_transformer_lens(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "toy", random_net(SHAPES["solu"]), SHAPES["solu"], **changes)
    with pytest.raises(ValueError, match=f"(?s)tl:.*{message}"):
        references.load(f"tl:{folder}")


def test_a_folder_of_transformer_lens_whose_pickle_runs(tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "toy", random_net(SHAPES["solu"]), SHAPES["solu"])
    torch.save({"embed.W_E": Reducing(tmp_path / "CANARY")}, folder / "model_final.pth")
    with pytest.raises(ValueError, match="holds Python objects"):
        references.load(f"tl:{folder}")
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoConfig": "code.Config"}, "model_type": "unknown"}, "cannot load"),
        ({"auto_map": {"AutoModelForCausalLM": "code.Model"}, "model_type": "unknown"}, "cannot load"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation=evil/kernel.*fetched from elsewhere"),
        ({"_attn_implementation": "evil/kernel:run"}, "fetched from elsewhere"),
        ({"use_pretrained_backbone": True, "backbone": "evil/model"}, "fetched from elsewhere"),
        ({"n_layer": 10**9}, "n_layer=1000000000"),
        ({"vocab_size": HUGE}, "vocab_size=4000000000, and no model is that large"),
        ({"n_positions": HUGE}, "n_positions=4000000000, and no model is that large"),
        ({"n_embd": HUGE}, "n_embd=4000000000, and no model is that large"),
        ({"text_config": {"max_position_embeddings": HUGE}}, "max_position_embeddings=4000000000"),
        ({"model_type": ["gpt2"]}, "model_type=<list>; expected the name of an architecture"),
        ({"model_type": "../runs/evil/payload"}, "expected the name of an architecture"),
    ],
)
def test_a_folder_of_hugging_face(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    from tests.instrument.loading.test_pretrained import saved

    folder, _ = saved(tmp_path / "hf")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'CANARY')!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=f"(?s)hf:.*{message}"):
        references.load(f"hf:{folder}")
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("generation_config.json", "[" * 10**5, r"generation_config\.json"),
        (
            "generation_config.json",
            None,
            r"generation_config\.json: expected a file, found a folder, a pipe or a device",
        ),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"w": "../../other.safetensors"}}',
            "files of weights beside it",
        ),
        ("pytorch_model.bin.index.json", '{"weight_map": {"w": "/etc/passwd"}}', "names /etc/passwd"),
        ("model.safetensors.index.json", '{"weight_map": [3]}', "files of weights beside it"),
        ("config.json", '{"model_type": "gpt2", "n_head": 3.5e9, "num_labels": 4000000000}', "num_labels=4000000000"),
        ("config.json", '["gpt2"]', "expected a JSON object"),
    ],
)
def test_what_lies_in_a_folder_of_hugging_face_is_checked_before_transformers_is_imported(
    name: str, text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"w": torch.ones(4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    os.mkfifo(tmp_path / name) if text is None else (tmp_path / name).write_text(text)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=f"hf:.*{message}"):
        references.load(f"hf:{tmp_path}")


def test_a_model_of_which_a_part_was_not_copied_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)]
    save_file({"w": torch.ones(4)}, tmp_path / names[0])
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=f"lacks {names[1]}, {names[2]}, which .* copy it again"):
        references.load(f"hf:{tmp_path}")


def test_a_folder_with_an_adapter_names_no_other_model(tmp_path: Path) -> None:
    from tests.instrument.loading.test_pretrained import saved

    folder, _ = saved(tmp_path / "hf")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
    with pytest.raises(ValueError, match="names another model to load; merge the adapter"):
        references.load(f"hf:{folder}")


def tokenizer_with(**changes: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    return {"version": "1.0", "added_tokens": [], "model": {**model, **changes.pop("model", {})}, **changes}


TOKENIZERS = {
    "ids of billions": tokenizer_with(model={"vocab": {"a": HUGE, "b": 1, "ab": 2}}),
    "a panic at reading": tokenizer_with(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
    "a panic at normalizing": tokenizer_with(
        normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(4)).decode()}
    ),
    "a panic at splitting": tokenizer_with(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "a panic at framing": tokenizer_with(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
    "a panic at decoding": tokenizer_with(decoder={"type": "Strip", "content": "a", "start": 1000, "stop": 1000}),
    "a panic at merging": tokenizer_with(model={"continuing_subword_prefix": "abcdef"}),
    "a regex without an end": tokenizer_with(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    ),
    "a list": [],
    "a model unknown": tokenizer_with(model={"type": "Evil"}),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_broken_tokenizer_is_one_message(name: str, runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    path = runs.folder("solu") / "tokenizer.json"
    path.write_text(json.dumps(TOKENIZERS[name]))
    with pytest.raises(ValueError, match=r"solu/tokenizer\.json"):
        references.load("runs/solu", runs.home / "runs")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "\x00", '{"version":"1.0","normalizer":' * 10**4])
def test_a_tokenizer_that_is_not_json_is_rejected(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path / "tokenizer.json")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join(9 * [f'*a{n}'])}]\n" for n in range(12))
YAMLS = {
    "a bomb of anchors": BOMB,
    "an anchor that holds itself": "a: &a [*a]\n",
    "a merge": "a: &a {b: 1}\nc: {<<: *a}\n",
    "an object": "a: !!python/object/apply:os.system [touch CANARY]\n",
    "a name": "a: !!python/name:os.system\n",
    "a module": "a: !!python/module:payload\n",
    "a tuple": "a: !!python/tuple [1]\n",
    "a set": "a: !!set {b}\n",
    "bytes": "a: !!binary aGk=\n",
    "a tag of one's own": "a: !evil b\n",
    "a thousand levels": "a: " + "[" * 1000 + "]" * 1000,
    "ten thousand levels": "a: " + "{b: " * 10**4,
    "a list": "- 1\n",
    "nothing closed": "a: [",
    "a tab": "\ta: 1",
    "a key that is a list": "? [1]\n: 2\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "two megabytes": "a: " + "x" * 2**21,
    "a control character": "a: \x01\n",
    "an interpolation that is broken": "a: ${oc.env:\n",
}


@pytest.mark.parametrize("name", YAMLS)
@pytest.mark.parametrize("reader", ["alone", "study=compare"])
def test_a_hostile_yaml_is_one_message(name: str, reader: str, runs: Runs) -> None:
    payload(runs.home, runs.home / "CANARY")
    path = runs.folder("solu") / "config.yaml"
    path.write_text(YAMLS[name])
    with pytest.raises(ValueError, match=r"solu/config\.yaml"):
        read_yaml(path) if reader == "alone" else study(runs, "compare", "runs/solu,runs/gelu")
    assert not (runs.home / "CANARY").exists()


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "curves.jsonl", "checkpoints/step_0000001.ckpt"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_pipes_and_devices_are_not_waited_for(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "tiny" / name
    path.parent.mkdir(parents=True)
    {
        "a pipe": lambda: os.mkfifo(path),
        "a device": lambda: path.symlink_to("/dev/zero"),
        "a folder": lambda: path.mkdir(),
    }[kind]()
    for reader in (read_yaml, read_json):
        with pytest.raises(ValueError, match="expected a file, found a folder, a pipe or a device"):
            reader(path)
    assert references.steps_of(tmp_path / "runs" / "tiny") == {}
    if kind != "a folder":
        with pytest.raises(ValueError, match="is a pipe or a device|is a link to /dev/zero"):
            refuse_links(tmp_path / "runs" / "tiny")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    for name, reader in (("x.yaml", read_yaml), ("x.json", read_json)):
        (tmp_path / name).write_bytes(b"a: \xff\xfe")
        with pytest.raises(ValueError, match=f"{name}: it is not UTF-8"):
            reader(tmp_path / name)


@pytest.mark.parametrize(
    "text", ["[1]", "{", "[" * 10**5, '{"a":' * 10**5, '{"a": NaN', "1" * 5000, '{"a": ' + "1" * 5000 + "}"]
)
def test_a_hostile_json_is_one_message(text: str, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"provenance\.json"):
        read_json(tmp_path / "provenance.json")


@pytest.mark.parametrize("key", ["probe", "model", "width", "init_seed"])
@pytest.mark.parametrize("value", ["x", [1], None, {"sequences": HUGE, "length": "x", "split": 1}, True])
def test_other_keys_of_a_config(key: str, value: Any, runs: Runs) -> None:
    path = runs.folder("solu") / "config.yaml"
    config: Any = OmegaConf.load(path)
    config[key] = value
    OmegaConf.save(config, path)
    with pytest.raises(ValueError, match=r"solu/config\.yaml"):
        study(runs, "compare" if key == "probe" else "asymmetry", "runs/solu,runs/gelu")


def test_the_cache_of_a_run_is_not_written_to(runs: Runs) -> None:
    places = {name: runs.home / name for name in ("theirs", "hashes", "mine")}
    data = {**runs.data(), "cache_dir": str(places["theirs"])}
    data["source"]["cache_dir"] = str(places["hashes"])
    runs.write_config("solu", data)
    study(runs, "compare", "runs/solu,runs/gelu", "measures=fast", f"cache_dir={places['mine']}")
    assert [name for name, path in places.items() if path.exists()] == ["mine"]


def test_saved_activations_that_are_objects(tmp_path: Path) -> None:
    from dissimilarity import compare

    np.save(tmp_path / "x.npy", np.array([Reducing(tmp_path / "CANARY")], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x\.npy"):
        compare(tmp_path / "x.npy", tmp_path / "x.npy", None)
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("kind", ["an archive", "a pipe", "a folder"])
def test_saved_activations_that_are_not_arrays_are_rejected(kind: str, tmp_path: Path) -> None:
    from dissimilarity import compare

    path = tmp_path / "x.npy"
    if kind == "an archive":
        with path.open("wb") as file:
            np.savez(file, a=np.ones((4, 2)))
    else:
        os.mkfifo(path) if kind == "a pipe" else path.mkdir()
    with pytest.raises(ValueError, match=r"x\.npy: expected"):
        compare(path, path, None)


@pytest.mark.parametrize("name", ["pandas", "csv", "webdataset"])
@pytest.mark.parametrize("kind", ["Hub", "MnliHans"])
def test_a_data_set_is_not_read_as_a_file_format(kind: str, name: str, runs: Runs) -> None:
    source = {"Hub": {"name": name}, "MnliHans": {"mnli": name}}[kind]
    target = {"Hub": "data.sources.hub.Hub", "MnliHans": "data.examples.mnli_hans.MnliHans"}[kind]
    runs.write_config("solu", {**runs.data(), "source": {"_target_": target, **source}})
    with pytest.raises(ValueError, match=rf"(?s)solu/config\.yaml.*{name}: expected ORGANIZATION/NAME"):
        study(runs, "compare", "runs/solu,runs/gelu")


def test_a_custom_family_must_be_named_by_the_command(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(runs.home))
    canary = runs.home / "CANARY"
    payload(runs.home, canary)
    path = runs.rewrite("solu", "last.ckpt", of_the_net(_target_="payload.Net"))
    for named in ([], ["payload"], ["payload.Other"], ["runs.evil.payload.Net"]):
        with naming(named), pytest.raises(ValueError, match=r"payload\.Net is not a net of this project.*searchpath"):
            references.load(str(path))
        assert not canary.exists()
    with naming(["payload.Net"]), pytest.raises(ValueError, match="cannot be built here"):
        references.load(str(path))
    assert canary.exists(), "named, it is imported"
    del sys.modules["payload"]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an unfinished run `tiny` of two steps."""
    folder = tmp_path_factory.mktemp("unfinished")
    with contextlib.chdir(folder):
        assert in_process(tiny(folder, trainer__max_steps=2, references="[init]", runs_dir="runs")) == 0
    (folder / "runs" / "tiny" / "summary.json").unlink()
    return folder


def notes(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
    def attack(folder: Path, canary: Path) -> None:
        path = folder / "provenance.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return attack


def last(change: Callable[[dict[str, Any], Path], object]) -> Callable[[Path, Path], None]:
    def attack(folder: Path, canary: Path) -> None:
        path = folder / "checkpoints" / "last.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        change(checkpoint, canary)
        torch.save(checkpoint, path)

    return attack


ROW = {"step": 2, "tokens": 64, "reference": "init", "measure": "cka", "site_a": "a", "site_b": "a", "value": 0.5}
ROW |= {"dissimilarity": 0.5, "n_samples": 8, "seconds": 0.1}
ALONE = {"step": 2, "reference": "init", "of": "model", "site": "embed", "measure": "rankme", "value": 9.5}


def of_tracker(**changes: Any) -> Callable[[Path, Path], None]:
    def change(checkpoint: dict[str, Any], canary: Path) -> None:
        (state,) = (state for state in checkpoint["callbacks"].values() if "matched" in state)
        state.update(changes)

    return last(change)


NO_ROWS = {
    "numbers": [1, 2],
    "text": "abc",
    "a mapping": {"a": 1},
    "other columns": [{"step": 2, "more": 3}],
    "a step that is text": [ROW | {"step": "two"}],
    "a step without an end": [ROW | {"step": 10**30}],
    "a step before the first": [ROW | {"step": -3}],
    "a step that is true": [ROW | {"step": True}],
    "a value that is a list": [ROW | {"value": [1]}],
    "a reference that is a number": [ROW | {"reference": 3}],
    "a site that controls the terminal": [ROW | {"site_a": "\x1b[31m"}],
}
"""What a checkpoint may hold in place of rows of curves."""
NO_RECORDS = {
    name: {"curves": [], "intrinsic": [], "alerts": []} | waiting
    for name, waiting in {
        "numbers for intrinsic": {"intrinsic": [1, 2]},
        "text for intrinsic": {"intrinsic": "abc"},
        "a step that is text for intrinsic": {"intrinsic": [{"step": "x"}]},
        "an infinite step for intrinsic": {"intrinsic": [ALONE | {"step": -math.inf}]},
        "no value for intrinsic": {"intrinsic": [{"step": 2, "reference": "init"}]},
        "numbers for alerts": {"alerts": [1]},
        "a mapping for alerts": {"alerts": {"step": 2}},
        "no text for alerts": {"alerts": [{"step": 2, "rule": "move"}]},
    }.items()
}
"""What it may hold in place of other records."""

RESUMED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a pickle that runs": (last(lambda c, canary: c.update(loops=Reducing(canary))), r"last\.ckpt: it holds Python"),
    "loops that are a number": (last(lambda c, _: c.update(loops=3)), r"last\.ckpt: it is not what a run writes"),
    "a version of no form": (last(lambda c, _: c.update({"pytorch-lightning_version": []})), "InvalidVersion"),
    "an optimizer without groups": (last(lambda c, _: c.update(optimizer_states=[{}])), r"last\.ckpt: .*KeyError"),
    "no state of the generators": (
        last(lambda c, _: c["callbacks"]["ScheduledCheckpoints"].update(random={"cpu": 3})),
        r"last\.ckpt: .*TypeError",
    ),
    "a step below zero": (last(lambda c, _: c.update(global_step=-1)), r"last\.ckpt: .*a step from 0 to 2, found -1"),
    "a step that is text": (last(lambda c, _: c.update(global_step="x")), r"last\.ckpt: .*a step from 0 to 2, found x"),
    "a step after the last": (
        last(lambda c, _: c.update(global_step=10**18)),
        r"last\.ckpt: .*a step from 0 to 2, found",
    ),
    "no checkpoint": (
        lambda folder, _: [file.write_text("x") for file in (folder / "checkpoints").glob("*last.ckpt")],
        r"last\.ckpt (is damaged|is not)|last\.ckpt: it is not",
    ),
    "a config that is a bomb": (lambda folder, _: (folder / "config.yaml").write_text(BOMB), r"config\.yaml"),
    "a config with an object": (
        lambda folder, canary: (folder / "config.yaml").write_text(
            f"a: !!python/object/apply:os.system ['touch {canary}']"
        ),
        r"config\.yaml.*tag",
    ),
    "a config that runs": (
        lambda folder, canary: (folder / "config.yaml").write_text(
            f"a: ${{oc.create:{{_target_:os.system,c:touch {canary}}}}}"
        ),
        "another config|config.yaml",
    ),
    "notes without an end": (
        lambda folder, _: (folder / "provenance.json").write_text("[" * 10**5),
        r"provenance\.json",
    ),
    "notes of another form": (
        notes(lambda n: n.update(data=3, starts={})),
        r"provenance\.json: data\.fingerprint=None: expected",
    ),
    "a precision of their own": (notes(lambda n: n["precision"].update(chosen="evil")), r"provenance\.json: precision"),
    "a name of a W&B run that is a path": (
        notes(lambda n: n.update(wandb_id="../../x")),
        r"provenance\.json: wandb_id",
    ),
    "a link for a log": (lambda folder, canary: (folder / "figures.txt").symlink_to(canary), "is a link to .*CANARY"),
    **{
        f"rows that are {name}": (of_tracker(matched=json.dumps(rows)), r"last\.ckpt: .*expected rows of curves")
        for name, rows in NO_ROWS.items()
    },
    **{
        f"waiting rows that are {name}": (
            of_tracker(waiting={"curves": rows, "intrinsic": [], "alerts": []}),
            r"last\.ckpt: .*expected rows of curves",
        )
        for name, rows in NO_ROWS.items()
    },
    **{
        f"waiting: {name}": (of_tracker(waiting=waiting), r"last\.ckpt: .*expected rows of (int|al)")
        for name, waiting in NO_RECORDS.items()
    },
    "a link for a folder": (
        lambda folder, canary: (folder / "more").symlink_to(canary.parent),
        "is a link to .*outside of runs/tiny",
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_from_elsewhere_is_not_continued(
    name: str, unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(unfinished / "runs" / "tiny", tmp_path / "runs" / "tiny"))
    attack, message = RESUMED[name]
    attack(folder, tmp_path / "CANARY")
    cfg = tiny(unfinished, trainer__max_steps=2, references="[init]", runs_dir="runs")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        train.train(cfg)
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("mark", [{"size": 0, "crc": 0}, {"size": 4, "crc": 0}, {"more": 1}, 3])
@pytest.mark.parametrize(
    "name", ["../../thesis.jsonl", "ABSOLUTE", "../thesis", "..", "thesis.jsonl/../../../thesis.jsonl"]
)
def test_a_checkpoint_cuts_no_journal_outside_of_its_run(
    name: str, mark: Any, unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(unfinished / "runs" / "tiny", tmp_path / "runs" / "tiny"))
    thesis = [tmp_path / "thesis.jsonl", tmp_path / "runs" / "thesis"]
    for path in thesis:
        path.write_text('{"my": "thesis"}\n')

    def change(checkpoint: dict[str, Any], canary: Path) -> None:
        (state,) = (state for state in checkpoint["callbacks"].values() if "journals" in state)
        state["journals"][name.replace("ABSOLUTE", str(thesis[0]))] = mark

    last(change)(folder, tmp_path / "CANARY")
    cfg = tiny(unfinished, trainer__max_steps=2, references="[init]", runs_dir="runs")
    with pytest.raises(ValueError, match=r"last\.ckpt: .*expected marks of journals"):
        train.train(cfg)
    assert [path.read_text() for path in thesis] == 2 * ['{"my": "thesis"}\n']


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"_target_": "payload.Net"}},
        {"model": {"_target_": "runs.tiny.payload.Net"}},
        {"model": {"_target_": "os.system", "command": "touch CANARY"}},
        {"model": 3},
        {"width": "${oc.env:HOME}"},
        {"data": {"tokenizer": {"path": "${oc.env:HOME}"}}},
        {"data": 3},
    ],
)
def test_a_stranger_does_not_choose_the_net_of_a_run_that_began_elsewhere(
    changes: dict[str, Any], unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = Path(shutil.copytree(unfinished / "runs" / "tiny", tmp_path / "runs" / "tiny"))
    for place in (tmp_path, folder):
        payload(place, tmp_path / "CANARY")
    config = {**read_yaml(folder / "config.yaml"), "init_from": "runs/gone", **changes}
    (folder / "config.yaml").write_text(json.dumps(config))
    cfg = tiny(unfinished, init_from="runs/gone", trainer__max_steps=2, runs_dir="runs")
    with pytest.raises(ValueError, match=r"tiny/config\.yaml"):
        resolve_init(cfg, [], folder)
    assert not (tmp_path / "CANARY").exists()


OTHERS = (None, 3, -1, "\x1b]0;x\x07", [], [1], {}, {"a": 1}, True, 1e300)


def mutations(form: dict[str, Rule], content: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield contents that differ from a good one in one value, which a form does not allow."""
    for key, rule in form.items():
        for value in OTHERS:
            changed = copy.deepcopy(content)
            *parents, last = key.split(".")
            node = changed
            for parent in parents:
                node = node[parent]
            if not rule.fits(value):
                node[last] = value
                yield key, value, changed


def test_notes_of_another_form_are_one_message(unfinished: Path, tmp_path: Path) -> None:
    good = json.loads((unfinished / "runs" / "tiny" / "provenance.json").read_text())
    path = tmp_path / "provenance.json"
    assert check_form(good, PROVENANCE, path) is good
    changes = list(mutations(PROVENANCE, good))
    for key, value, changed in changes:
        with pytest.raises(ValueError, match=rf"provenance\.json: {re.escape(key)}=.*: expected") as error:
            check_form(changed, PROVENANCE, path)
        assert "\x1b" not in str(error.value), value
    assert len(changes) > 60


FINISHED: dict[str, Any] = {
    "status": "finished",
    "steps": 3,
    **dict.fromkeys(("val_loss", "unigram_loss", "bits_per_byte", "unigram_bits_per_byte", "perplexity"), 1.0),
    **dict.fromkeys(("accuracy", "tokens_per_second", "tracking_share"), 0.5),
    "drift": {"CKA": {"nearest": "a", "next": "b", "site": "s", "difference": 1.0, "stderr": None, "differs": True}},
    "parameters": 1_234_567,
    "final": [
        {
            **{"reference": "init", "measure": "cka", "site_a": f"blocks.{layer}.resid_post", "site_b": "[red]s"},
            **{"step": 3, "value": 0.5 + layer, "stderr": 0.1, "n_units": 8, "null": None, "calibrated": 0.25},
            "curve": [0.0, None, 0.5],
        }
        for layer in (0, 1)
    ],
    "moves": {"init": {"cka": {"blocks.0.resid_post": 1, "blocks.1.resid_post": None}}},
    "wandb": None,
}
CLASSIFIER = {**FINISHED, "splits": {"val": 1.0, "x": None}, "labels": ["a"], "val_accuracy": 1.0, "ood_accuracy": None}


@pytest.mark.parametrize("content", [FINISHED, CLASSIFIER])
def test_a_summary_is_shown_or_is_one_message(content: dict[str, Any], tmp_path: Path) -> None:
    """Whatever is in it: a finished run of a stranger is only shown."""
    shown = 0
    for key in [*content, *SUMMARY, "more"]:
        for value in (*OTHERS, math.nan, "gone"):
            changed = {**content, key: value} if value != "gone" else {k: v for k, v in content.items() if k != key}
            (tmp_path / "summary.json").write_text(json.dumps(changed))
            try:
                summary = read_summary(tmp_path)
            except ValueError as error:
                assert re.search(r"summary\.json: .*: expected", str(error))
                continue
            shown += 1
            show_end(tmp_path, {**summary, "run": "x"}, "next")
    assert shown > 50


def test_moves_of_another_form_are_one_message(tmp_path: Path) -> None:
    for moves in ({"init": 3}, {"init": {"cka": 3}}, {"init": {"cka": {"s": "x"}}}):
        (tmp_path / "summary.json").write_text(json.dumps({**FINISHED, "moves": moves}))
        with pytest.raises(ValueError, match=r"summary\.json: moves=.*: expected"):
            read_summary(tmp_path)
    for moves in ({}, {"init": {}}, {"init": {"cka": {}}}):
        (tmp_path / "summary.json").write_text(json.dumps({**FINISHED, "moves": moves}))
        show_end(tmp_path, {**read_summary(tmp_path), "run": "x"}, "next")


def test_final_values_of_another_form_are_one_message_or_shown(tmp_path: Path) -> None:
    (first, second), shown = FINISHED["final"], 0
    for key in first:
        for value in (*OTHERS, math.nan, [math.nan], []):
            (tmp_path / "summary.json").write_text(json.dumps({**FINISHED, "final": [{**first, key: value}, second]}))
            try:
                summary = read_summary(tmp_path)
            except ValueError as error:
                assert re.search(r"summary\.json: final.*: expected", str(error))
                continue
            shown += 1
            show_end(tmp_path, {**summary, "run": "x"}, "next")
    assert shown > 5


def test_the_summary_says_where_curves_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "curves.parquet").touch()
    show_end(tmp_path, {**FINISHED, "run": "x"}, "next")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{tmp_path.name} 3 steps, 1.23 M parameters" and lines[2] == "against references at step 3"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    half = stats.t.ppf(0.975, 7) * 0.1
    assert cells == [
        ["init", "0", f"0.500 ± {half:.3f}", "", "0.25", "▁ █"],
        ["", "1", f"1.500 ± {half:.3f}", "", "0.25", "▁ █"],
    ]
    assert PROBE_TEXT in " ".join(" ".join(lines).split())


def test_the_summary_says_where_curves_move(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_end(tmp_path, {**FINISHED, "run": "x"}, "next")
    shown = " ".join(capsys.readouterr().out.split())
    assert "vs init by cka, resid_post of block: 0 from step 1, 1 never" in shown
    assert FIRST_TICK in shown and REFERENCES in shown


@pytest.mark.parametrize(
    "pinned", [3, [], {}, {"pinned": 3}, {"pinned": "hf:evil/model", "sha256": "x", "path": "x"}, {"pinned": "x"}]
)
def test_pins_in_foreign_notes_are_not_requested_from_other_servers(pinned: Any, runs: Runs) -> None:
    uri = str(runs.folder("solu") / "checkpoints" / "last.ckpt")
    (runs.folder("gelu") / "provenance.json").write_text(json.dumps({"references": {uri: pinned}}))
    cfg = tiny(runs.home, references=f"['{uri}']")
    with pytest.raises(ValueError, match=r"provenance\.json"):
        find(cfg, runs.folder("gelu"), runs.tokenizer, torch.zeros(2, 8, dtype=torch.int64))


def test_a_continued_run_leaves_no_mark_where_its_notes_point(runs: Runs) -> None:
    """Only what this command itself resolves is pinned; a path in the notes may be anyone's."""
    private = runs.folder("gelu") / "checkpoints" / "step_0000001.ckpt"
    notes = {"path": str(private), "pinned": str(private), "sha256": sha256_of(private), "step": 1}
    uri = str(runs.folder("solu") / "checkpoints" / "last.ckpt")
    for references_ in ({uri: notes}, {"other": notes}):
        (runs.folder("solu") / "provenance.json").write_text(json.dumps({"references": references_}))
        cfg = tiny(runs.home, references=f"['{uri}']")
        find(cfg, runs.folder("solu"), runs.tokenizer, torch.zeros(2, 8, dtype=torch.int64))
    assert not list(private.parent.glob("*.pinned"))


def test_a_broken_copy_of_a_tokenizer_is_not_a_panic(runs: Runs) -> None:
    copy_ = runs.folder("gelu") / "tokenizer.json"
    copy_.write_text(json.dumps(TOKENIZERS["a panic at splitting"]))
    cfg = OmegaConf.create({"init_from": "runs/solu", "data": {"tokenizer": {"path": str(copy_)}}})
    assert tokenizer_of(cfg, runs.folder("gelu")) == {
        "tokenizer": {"_target_": "data.tokenizers.TokenizerFile", "path": str(copy_)}
    }
