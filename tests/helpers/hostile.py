"""What an attacker may put into files: tricks that would leave a canary, and run files that contain them."""

import json
import shutil
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer

from data.tokenizers import BytePairs
from models.language_model import LanguageModel
from models.saved import KEY
from models.text_classifier import TextClassifier
from tests.helpers.families import family_config, optim_config
from tests.helpers.tiny_text import tiny_texts, write_jsonl

N_CTX = 16


class Reducing:
    """A pickle that makes a file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


@dataclass(frozen=True)
class Trick:
    """Something that a config may hold.

    Attributes:
        name: for the report.
        make: the value, of the canary's path and of the package (`models` or `data`) whose class is expected there.
        live: whether Hydra itself, without a guard, is known to let it leave the canary.
    """

    name: str
    make: Callable[[Path, str], Any]
    live: bool = False


def touching(canary: Path) -> dict[str, Any]:
    """Return a config that makes a file when it is built and is not on Hydra's own list."""
    return {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(canary)]}}


def _named(target: str, **arguments: Any) -> Callable[[Path, str], Any]:
    """Return a config of a target, with P for the package and CANARY for the file in its name and arguments."""

    def fill(value: Any, canary: Path, package: str) -> Any:
        if isinstance(value, str):
            return value.replace("CANARY", str(canary)).replace("P.", f"{package}.")
        if isinstance(value, list):
            return [fill(item, canary, package) for item in value]
        return {key: fill(item, canary, package) for key, item in value.items()} if isinstance(value, dict) else value

    return lambda canary, package: fill({"_target_": target, **arguments}, canary, package)


def _nested(depth: int) -> Any:
    node: Any = {}
    for _ in range(depth):
        node = {"a": node}
    return node


def _shared(levels: int) -> Any:
    node: Any = ["x"]
    for _ in range(levels):
        node = [node] * 10
    return node


WALK = {"models": "models.build.torch.utils.collect_env.run", "data": "data.module.torch.utils.collect_env.run"}
TRICKS = [
    Trick("a shell command", _named("os.system", command="touch CANARY")),
    Trick("subprocess", _named("subprocess.run", args=["touch", "CANARY"])),
    Trick("a method of pathlib", lambda canary, _: touching(canary), live=True),
    Trick(
        "attributes of our modules lead to a shell",
        lambda canary, package: {"_target_": WALK[package], "command": f"touch {canary}"},
        live=True,
    ),
    Trick("attributes of our modules lead to pathlib", lambda c, p: {**touching(c), "_target_": f"{p}.x.Path.touch"}),
    Trick("in a tuple", lambda canary, _: (touching(canary),)),
    Trick("in a tuple in a list in a dict", lambda canary, _: {"a": [(touching(canary),)]}),
    Trick("in a list in a dict", lambda canary, _: {"a": [{"b": [touching(canary)]}]}, live=True),
    Trick("in an OrderedDict", lambda canary, _: OrderedDict(a=touching(canary))),
    Trick("an OrderedDict itself", lambda canary, _: OrderedDict(touching(canary))),
    Trick("in a Counter", lambda canary, _: Counter({"a": 1})),
    Trick("a set", lambda canary, _: {"_target_", "os.system"}),
    Trick("bytes", lambda canary, _: b"os.system"),
    Trick("a complex number", lambda canary, _: 1j),
    Trick("a tensor", lambda canary, _: torch.Size([2])),
    Trick("a key that is a tuple", lambda canary, _: {("_target_",): "os.system"}),
    Trick("a key that is None", lambda canary, _: {None: touching(canary)}),
    Trick("a module of the clone", _named("runs.evil.payload.Net"), live=True),
    Trick("a module of the working directory", _named("payload.Net"), live=True),
    Trick("a pickle that runs", lambda canary, _: Reducing(canary)),
    Trick("an environment variable", lambda canary, _: {"_target_": "P.solu.SoLU", "a": "${oc.env:HOME}"}),
    Trick("an interpolation alone", lambda canary, _: "${oc.env:HOME}"),
    Trick("oc.create", lambda c, _: f"${{oc.create:{{_target_:pathlib.Path.touch,self:{{_target_:x,a:{c}}}}}}}"),
    Trick("a made target", lambda canary, _: {"_target_": "${oc.decode:os.system}", "command": f"touch {canary}"}),
    Trick("an interpolation in a key", lambda canary, _: {"${oc.env:HOME}": 1}),
    Trick("_args_ beside a class of ours", lambda c, p: {"_target_": _ours(p), "_args_": [touching(c)]}, live=True),
    Trick("functools.partial", _named("functools.partial", _args_=["os.system", "touch CANARY"])),
    Trick("_partial_ of a call", lambda canary, _: {**touching(canary), "_partial_": True}),
    Trick("_partial_ that is text", lambda canary, package: {"_target_": _ours(package), "_partial_": "yes"}),
    Trick("_recursive_", lambda canary, package: {"_target_": _ours(package), "_recursive_": False}),
    Trick("_convert_ of another kind", lambda canary, package: {"_target_": _ours(package), "_convert_": ["all"]}),
    Trick("an order unknown today", lambda canary, package: {"_target_": _ours(package), "_call_": "os.system"}),
    Trick("a function of ours that writes", _named("launch.run.folder.write_text", path="CANARY", text="x")),
    Trick("a private function of ours that writes", _named("data.pack._write_text", file="CANARY", text="x")),
    Trick("a class of ours of another kind", _named("callbacks.metrics.MetricsLogger", folder="CANARY")),
    Trick("a class of ours that keeps a journal", _named("dissimilarity.tables.journal.Journal", path="CANARY")),
    Trick("a method of ours", _named("models.language_model.LanguageModel.on", data={}, net={}, optim={}, init_seed=0)),
    Trick("a task in place of a net", _named("models.language_model.LanguageModel", net="x")),
    Trick("hydra.utils.call", lambda canary, _: {"_target_": "hydra.utils.call", "config": touching(canary)}),
    Trick("hydra.utils.instantiate", lambda c, _: {"_target_": "hydra.utils.instantiate", "config": touching(c)}),
    Trick("hydra.utils.get_method", _named("hydra.utils.get_method", path="os.system")),
    Trick("hydra.utils.get_class", _named("hydra.utils.get_class", path="runs.evil.payload.Net"), live=True),
    Trick("Hydra's own list", _named("hydra._internal.target_policy.UNCONTROLLED_EXECUTION_TARGETS.discard")),
    Trick("our settings.instantiate", lambda c, _: {"_target_": "settings.instantiate", "config": touching(c)}),
    Trick("our trusted.naming", _named("trusted.naming", targets=["os.system"])),
    Trick("__init__ of ours", _named("models.transformer.Transformer.__init__")),
    Trick("__init__ as a module", _named("models.__init__.transformer.Transformer")),
    Trick("a loader of ours", _named("models.transformer.__loader__.exec_module", module="x")),
    Trick("globals of ours", _named("models.transformer.Transformer.forward.__globals__.get", key="torch")),
    Trick("a class that ours imports", _named("models.classifier.nn.Sequential")),
    Trick("a class of ours under another module", _named("models.exchange.shape.Transformer")),
    Trick("leading dots", _named("..os.system", command="touch CANARY")),
    Trick("a leading dot before ours", _named(".models.transformer.Transformer")),
    Trick("a trailing blank", _named("models.transformer.Transformer ")),
    Trick("a letter that only looks alike", _named("mоdels.transformer.Transformer")),  # noqa: RUF001
    Trick("a colon in place of a dot", _named("pathlib:Path.touch")),
    Trick("a path in the name", _named("../runs/evil/payload.Net")),
    Trick("a NUL in the name", _named("models.transformer\0.Transformer")),
    Trick("a name in a list", lambda canary, _: {"_target_": ["os.system"]}),
    Trick("a name that is a call", lambda canary, _: {"_target_": touching(canary)}),
    Trick("a name that is a number", lambda canary, _: {"_target_": 3}),
    Trick("no name", lambda canary, _: {"_target_": None}),
    Trick("exec", _named("builtins.exec", _args_=["open('CANARY', 'w')"])),
    Trick("open", _named("builtins.open", file="CANARY", mode="w")),
    Trick("an import", _named("importlib.import_module", name="runs.evil.payload")),
    Trick("runpy", _named("runpy.run_path", path_name="runs/evil/payload.py")),
    Trick("pickle.load", _named("pickle.load", file={"_target_": "builtins.open", "file": "CANARY.pkl", "mode": "rb"})),
    Trick("torch.load", _named("torch.load", f="CANARY.pkl", weights_only=False)),
    Trick("numpy.load", _named("numpy.load", file="CANARY.pkl", allow_pickle=True)),
    Trick("torch.hub", _named("torch.hub.load", repo_or_dir="runs/evil", model="x", source="local")),
    Trick("a file written by torch", _named("torch.save", obj=1, f="CANARY"), live=True),
    Trick("a file written by numpy", _named("numpy.savetxt", fname="CANARY", X=[1]), live=True),
    Trick("a folder made by tempfile", _named("tempfile.mkdtemp", dir="CANARY")),
    Trick("a module of torch with weights", _named("torch.nn.MultiheadAttention", embed_dim=10**6, num_heads=1)),
    Trick("nested a thousand deep", lambda canary, _: _nested(300)),
    Trick("a list of lists that is 10^9 long", lambda canary, _: _shared(8)),
]


def _ours(package: str) -> str:
    """Return a class that is allowed inside a net or inside data."""
    return {"models": "models.solu.SoLU", "data": "data.sources.stdlib.Stdlib"}[package]


def payload(folder: Path, canary: Path) -> None:
    """Write a module that makes a file when it is imported as `runs.evil.payload` or `payload`."""
    text = f"from torch import nn\nopen({str(canary)!r}, 'w').close()\n\n\nclass Net(nn.Module):\n    pass\n"
    (folder / "runs" / "evil").mkdir(parents=True, exist_ok=True)
    for path in (folder / "runs" / "evil" / "payload.py", folder / "payload.py"):
        path.write_text(text)


@dataclass
class Runs:
    """A folder of runs that were never trained: their files are written as train.py would.

    Attributes:
        home: holds runs/, a text, and a cache.
        tokenizer: tokenizer of all runs.
        pristine: the folder that this one was copied from.
    """

    home: Path
    tokenizer: Tokenizer
    pristine: Path

    def copied_to(self, folder: Path) -> "Runs":
        """Copy the runs into a folder, where a test may change them."""
        shutil.copytree(self.home, folder, dirs_exist_ok=True)
        return Runs(folder, self.tokenizer, self.home)

    @classmethod
    def at(cls, home: Path) -> "Runs":
        """Write a language model of two families at three steps, and four classifiers."""
        texts = tiny_texts(120)
        write_jsonl(home / "text.jsonl", texts)
        runs = cls(home, BytePairs(300).build(texts), home)
        for family in ("solu", "gelu"):
            runs.write(family, LanguageModel(net(family), optim_config(), runs.d_vocab, 3.0, 3.0))
        for name in ("one", "two", "three", "four"):
            labels: dict[str, Any] = {"labels": ["no", "yes"], "ood": [], "classes": {"val": [0, 1]}}
            padding = {"pooling": "last", "pad": 0, "end_is_pad": True}
            runs.write(name, TextClassifier(net("solu"), optim_config(), runs.d_vocab, **labels, **padding))
        return runs

    @property
    def d_vocab(self) -> int:
        """Size of the vocabulary."""
        return self.tokenizer.get_vocab_size()

    def folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.home / "runs" / name

    def write(self, name: str, module: Any) -> None:
        """Write the files of a run."""
        folder = self.folder(name)
        (folder / "checkpoints").mkdir(parents=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        for step in (0, 1, 2):
            checkpoint: dict[str, Any] = {
                "state_dict": module.state_dict(),
                "hyper_parameters": dict(module.hparams),
                "global_step": step,
            }
            module.on_save_checkpoint(checkpoint)
            torch.save(checkpoint, folder / "checkpoints" / f"step_{step:07d}.ckpt")
        torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
        self.write_config(name, self.data())

    def data(self) -> dict[str, Any]:
        """Return the data of a run, as its config has it."""
        return {
            "_target_": "data.module.TextDataModule",
            "_convert_": "all",
            "source": {"_target_": "data.sources.files.Files", "paths": [str(self.home / "text.jsonl")]},
            "tokenizer": {"_target_": "data.tokenizers.BytePairs", "vocab_size": 300},
            "n_ctx": N_CTX,
            "batch_size": 2,
            "cache_dir": str(self.home / "cache"),
        }

    def write_config(self, name: str, data: Any) -> Path:
        """Write the config.yaml of a run, with the tags that its values need."""
        rest = {"width": 16, "depth": 1, "seed": 0, "init_seed": 0, "data_seed": 0}
        probe = {"sequences": 8, "length": N_CTX, "split": "val"}
        path = self.folder(name) / "config.yaml"
        config = {**rest, "model": {"family": name}, "probe": probe, "data": data}
        path.write_text(yaml.dump(config, Dumper=yaml.Dumper, allow_unicode=True), encoding="utf-8")
        return path

    def rewrite(self, run: str, file: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        """Write the original checkpoint again with a change."""
        place = Path("runs", run, "checkpoints", file)
        checkpoint = torch.load(self.pristine / place, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, self.home / place)
        return self.home / place

    def safetensors(self, path: Path, settings: Any, written: Any = 1) -> Path:
        """Write a net to one file with the given settings in its metadata."""
        state = torch.load(self.pristine / "runs/solu/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        weights = {name.removeprefix("net."): weight for name, weight in state.items() if name.startswith("net.")}
        save_file(weights, path, {"format": "pt", KEY: json.dumps({"format": written, "settings": settings})})
        return path


def net(family: str) -> dict[str, Any]:
    """Return the settings of a small net."""
    settings = family_config(family, width=16, depth=1, n_ctx=N_CTX)
    return {key: value for key, value in settings.items() if key != "d_vocab"} | {"d_head": 8}
