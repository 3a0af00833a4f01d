"""Mistakes that names and files tell are explained before torch and transformers are loaded."""

import itertools
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import dissimilarity
from dissimilarity.cli.quiet import quiet
from dissimilarity.cli.texts import _between_words
from dissimilarity.loading.quantized import PACKAGES

RUN = """
import json, sys
from dissimilarity.cli.command import main
for arguments in json.loads(sys.argv[1]):
    assert main(["compare", *arguments]) == 2, arguments
    assert not {"torch", "transformers"} & set(sys.modules), arguments
    print(file=sys.stderr)
"""


QUANTIZED: dict[str, dict[str, Any]] = {
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "awq": {"text_config": {"quantization_config": {"quant_method": "awq"}}},
    "bitsandbytes": {"quantization_config": {"load_in_8bit": True}},
    "compressed-tensors": {"quantization_config": {"quant_method": "compressed-tensors"}},
}
"""Settings in a config.json by the method that they name."""


def model(folder: Path, has_weights: bool = True, has_tokenizer: bool = True, **more: Any) -> str:
    """Write a folder that looks like a model from outside, with weights of three blocks."""
    folder.mkdir()
    config = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 300} | more
    (folder / "config.json").write_text(json.dumps(config))
    if has_tokenizer:
        words = Tokenizer(WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
        words.save(str(folder / "tokenizer.json"))
    if has_weights:
        blocks = {f"model.layers.{layer}.mlp.up_proj.weight": np.ones((8, 8), "float32") for layer in range(3)}
        save_file({**blocks, "lm_head.weight": np.ones((300, 8), "float32")}, folder / "model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], str]]:
    """What is typed, and a part of the answer, by the kind of mistake."""
    root = tmp_path_factory.mktemp("early")
    good = model(root / "model")
    damaged = model(root / "damaged")
    (root / "damaged" / "model.safetensors").write_bytes(b"not weights")
    (root / "short.txt").write_text("too short")
    (root / "latin.txt").write_bytes("na\xefve text ".encode("latin-1") * 99)
    (root / "file").write_text("")
    (root / "base").mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(root / "nowhere"), "r": 2}
    (root / "base" / "adapter_config.json").write_text(json.dumps(adapter))
    (root / "base" / "adapter_model.safetensors").touch()
    (root / "model-00002-of-00003.gguf").touch()
    for name, array in {
        "a": np.eye(64, 8),
        "b": np.eye(32, 8),
        "numbers": np.ones((64, 8), int),
        "inner": np.ones((16, 8, 8)),
        "tokens": np.full((8, 12), 300),
        "some": np.ones((8, 12), int),
        "few": np.ones((3, 12), int),
    }.items():
        np.save(root / f"{name}.npy", array)
    a, tokens = str(root / "a.npy"), str(root / "tokens.npy")
    (root / "text.npy").write_text("no array")
    both = [good, good]
    cases: dict[str, tuple[list[str], str]] = {
        "missing folder": ([str(root / "modlr"), good], f"did you mean {good}?"),
        "missing hf folder": ([f"hf:{root / 'modlr'}", good], f"did you mean {good}?"),
        "name of the hub": (["org/name", good], "for a model of the Hugging Face hub, type hf:org/name"),
        "revision of the hub": (["org/name@main", good], "type hf:org/name@main"),
        "offline": (["hf:org/name", good], "HF_HUB_OFFLINE is set"),
        "no weights": (
            [model(root / "bare", has_weights=False), good],
            f"dissimilarity: bare: cannot load {root / 'bare'}: it is not a model: expected config.json and model.safe",
        ),
        "damaged weights": ([damaged, good], "it is damaged"),
        "no tokenizer": ([good, model(root / "mute", has_tokenizer=False)], "mute has no tokenizer.json"),
        "no tokenizer and another vocabulary": (
            [good, model(root / "small", has_tokenizer=False, vocab_size=80)],
            "; --tokens would not help, as the models have vocabularies of different sizes (model 300, small 80)",
        ),
        "no base": ([str(root / "base"), good], "is no folder of a model at "),
        "part of a file": ([str(root / "model-00002-of-00003.gguf"), good], "part 2 of 3"),
        "no file": (["gone.npy", a], "there is no file"),
        "no name": (["", good], "'' names no model; expected"),
        "no name of the hub": (["hf:", good], "'hf:' names no model; expected"),
        "no run": (["runs/gone", good], "there is no"),
        "text in Latin 1": ([*both, "--text", str(root / "latin.txt")], "it is not UTF-8"),
        "text is a folder": ([*both, "--text", str(root)], "give a UTF-8 text file"),
        "no text": ([*both, "--text", "gone.txt"], "--text gone.txt: there is no such file; give a UTF-8 text file"),
        "near text": ([*both, "--text", str(root / "shrt.txt")], f"no such file; did you mean {root / 'short.txt'}?"),
        "no tokens": (
            [*both, "--tokens", "gone.npy"],
            "there is no such file; give a .npy file of integers (sequences",
        ),
        "short text": (
            [*both, "--text", str(root / "short.txt")],
            "at least 4 sequences of 64 are needed (256 tokens)",
        ),
        "few tokens": ([*both, "--tokens", str(root / "few.npy")], "expected 4 sequences or more, found 3"),
        "unknown tokens": ([*both, "--tokens", tokens], "expected tokens 0 to 299, the vocabulary of model"),
        "other vocabulary": ([good, model(root / "other", vocab_size=320), "--tokens", tokens], "model 300, other 320"),
        "no array of tokens": ([*both, "--tokens", str(root / "text.npy")], "expected the one array of np.save"),
        "text and tokens": ([*both, "--tokens", tokens, "--length", "8"], "leave out --length"),
        "activations need no text": ([a, a, "--length", "8"], "so nothing is read; leave out --length"),
        "model beside activations": ([good, a], "pass its tokens with --tokens"),
        "other shapes": ([a, str(root / "b.npy")], "found " + a + ": (64, 8) and, at b of "),
        "other positions": ([a, str(root / "inner.npy")], "inner.npy: (16, 8, 8) and, at a of "),
        "activations of other tokens": ([good, a, "--tokens", str(root / "some.npy")], "found the tokens: (8, 12) and"),
        "predictions of activations": ([a, a, "--measures", "cka,kl"], "save the logits too"),
        "limit on predictions": ([a, a, "--fail-over", "jsd=1"], "save the logits too"),
        "no array": ([str(root / "text.npy"), a], "expected the one array of np.save"),
        "no activations": ([str(root / "numbers.npy"), a], "expected floating-point activations"),
        "no such site of a file": ([a, a, "--sites", "c"], "matches 'c'; it has a"),
        "no site in common": ([a, a, "--sites", "a|c,d"], "matches 'd'; it has a"),
        "measure": ([*both, "--measures", "cca,ckka"], "there is no measure ckka; choose from"),
        "limit": ([*both, "--fail-over", "ckka=1"], "there is no measure ckka; choose from"),
        "site": ([*both, "--sites", "blocks.*.resid_pots"], "choose from embed, blocks.{0-2}.resid_pre"),
        "layer": ([*both, "--sites", "blocks.3.resid_post"], "no site of model (A) matches"),
        "module": ([*both, "--sites", "encoder.layers.*"], "begins with layers, lm_head, model"),
        "out": ([*both, "--out", str(root / "file" / "out")], "cannot write there"),
        "device": ([*both, "--device", "gpu"], "--device gpu: expected cpu, cuda"),
        "pairs": ([*both, "--block-by-block", "--pairs", "all"], "leave one of them out"),
    }
    if sys.platform == "linux" and not [*Path("/dev").glob("nvidia*"), *Path("/dev").glob("kfd")]:
        cases["no GPU"] = ([*both, "--device", "cuda"], "--device cuda: there is no such device here; use cpu")
    for name, settings in {"text": "gptq", "list": ["gptq"], "nothing": {}, "number": {"quant_method": 4}}.items():
        quantized = model(root / f"quantized_{name}", quantization_config=settings)
        cases[f"{name} for a method"] = (
            [good, quantized],
            "expected quantization_config in its config.json as a mapping",
        )
    for method, settings in QUANTIZED.items():
        if find_spec(PACKAGES[method][0].replace("-", "_")) is None:
            quantized = model(root / method, **settings)
            needs = ", ".join(PACKAGES[method])
            words = f"dissimilarity: {method} has weights quantized by {method} and needs {needs}: pip install "
            cases[method] = ([good, quantized], words + " ".join(PACKAGES[method]))
    return cases


def test_mistakes_are_explained_without_torch(mistakes: dict[str, tuple[list[str], str]]) -> None:
    typed = json.dumps([arguments for arguments, _ in mistakes.values()])
    done = subprocess.run([sys.executable, "-c", RUN, typed], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = done.stderr.strip().split("\n\n")
    for (kind, (_, message)), answer in zip(mistakes.items(), answers, strict=True):
        assert message in answer and "\n" not in answer and "reference '" not in answer, f"{kind}: {answer}"


@pytest.mark.parametrize("method", PACKAGES)
def test_transformers_asks_for_the_same_packages(method: str) -> None:
    quantizers = pytest.importorskip("transformers.quantizers.auto").AUTO_QUANTIZER_MAPPING
    quantizer = quantizers.get(method, quantizers.get(f"{method}_4bit"))
    first = PACKAGES[method][0].partition("[")[0]
    if find_spec(first.replace("-", "_")) is not None:
        pytest.skip(f"{first} is installed")
    with pytest.raises(ImportError, match=first):
        quantizer.validate_environment(Mock(), device_map=None)


@pytest.mark.parametrize("text", ["to be  or not\nto be", " a bc  def ", "whether 'tis nobler"])
def test_parts_of_a_text_have_its_whole_words_and_no_others(text: str) -> None:
    words = [(word.start(), word.end(), word[0]) for word in re.finditer(r"\S+", text)]
    for start, stop in itertools.combinations(range(len(text) + 1), 2):
        whole = [word for first, last, word in words if start <= first and last <= stop]
        touched = [word for first, last, word in words if first < stop and last > start]
        if len(touched) > 1 and whole:
            assert _between_words(text, start, stop).split() == whole, (start, stop)


def test_the_output_measures_are_those_of_the_catalog() -> None:
    from dissimilarity.cli.command import OUTPUT_MEASURES
    from dissimilarity.measures.base.output_measure import OutputMeasure
    from dissimilarity.measures.catalog import measure_classes

    classes = {name for kind, name in measure_classes().items() if issubclass(kind, OutputMeasure)}
    assert classes == set(OUTPUT_MEASURES)


def test_what_only_a_loaded_model_tells_is_left_to_it(tmp_path: Path) -> None:
    from dissimilarity.cli.command import parser
    from dissimilarity.cli.early import checked_places

    here = model(tmp_path / "model")
    for sites in ("rotary_emb", "layers.*.mlp.act_fn", "*.mlp", "blocks.*.mlp.pre", "logits", "nothing|model.layers.*"):
        assert len(checked_places(parser().parse_args(["compare", here, here, "--sites", sites]))) == 2


def test_only_our_own_warnings_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    def warn(module: str) -> None:
        warnings.warn_explicit(f"from {module}", UserWarning, f"{module}.py", 1, module=module)
        logging.getLogger(module).warning("a line of %s", module)

    with quiet():
        warn("transformers.modeling_utils")
        warn("dissimilarity.probe.running")
    assert capsys.readouterr().err == "dissimilarity: from dissimilarity.probe.running\n"
    with quiet(is_verbose=True), pytest.warns(UserWarning, match="from transformers"):
        warn("transformers.modeling_utils")


@pytest.mark.parametrize("command", [["-m", "dissimilarity"], ["-P", "-m", "dissimilarity"]])
def test_nothing_in_the_current_folder_is_imported(tmp_path: Path, command: list[str]) -> None:
    for name in ("torch", "numpy", "safetensors", "rich", "csv", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    (tmp_path / "text.npy").write_text("no array")
    done = subprocess.run(
        [sys.executable, *command, "compare", "text.npy", "text.npy"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(dissimilarity.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "expected the one array of np.save" in done.stderr
