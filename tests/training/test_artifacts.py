"""`wandb:` references with a stand-in for the server, and checkpoints kept as artifacts by an offline run."""

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.wandb_run import WandbRun
from launch.run.references import find
from models.references import load, resolve
from tests.helpers.tiny_run import in_process, tiny

URI = "wandb:me/toys/tiny:v2"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run `tiny`."""
    folder = tmp_path_factory.mktemp("artifacts")
    assert in_process(tiny(folder, trainer__max_steps=2)) == 0
    return folder


class Server:
    """A stand-in for the API of W&B: one artifact whose versions are folders; it records requests and downloads."""

    def __init__(self, versions: dict[str, Path], monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self.versions, self.asked, self.downloaded, self.key = versions, [], [], True
        self.entries: dict[str, Any] = {"checkpoints/last.ckpt": SimpleNamespace(ref=None)}
        monkeypatch.setenv("WANDB_CACHE_DIR", str(cache))
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setattr("wandb.login", lambda **_: self.key)
        monkeypatch.setattr("wandb.Api", lambda timeout: self)

    def artifact(self, name: str) -> Any:
        self.asked.append(name)
        version = name.rpartition(":")[2]
        version = max(self.versions) if version == "latest" else version
        if version not in self.versions:
            raise RuntimeError(f"artifact membership '{name}' not found\nmore")
        return SimpleNamespace(
            version=version,
            digest=f"digest-{version}",
            manifest=SimpleNamespace(entries=self.entries),
            download=lambda root: self.give(version, root),
        )

    def give(self, version: str, root: str) -> None:
        self.downloaded.append(version)
        shutil.copytree(self.versions[version], root)


@pytest.fixture
def server(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return versions 1 and 2 of the run as an artifact, with its checkpoints of steps 1 and 2 as in the run folder."""
    versions = {}
    for step in (1, 2):
        folder = tmp_path / "server" / f"v{step}"
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copy(home / f"runs/tiny/checkpoints/step_{step:07d}.ckpt", folder / "checkpoints")
        shutil.copy(home / "runs/tiny/tokenizer.json", folder)
        versions[f"v{step}"] = folder
    return Server(versions, monkeypatch, tmp_path / "cache")


def test_a_version_is_downloaded_once_and_known_by_its_digest(server: Server, home: Path) -> None:
    first = load(URI)
    direct = load("runs/tiny@2", home / "runs")
    tokens = torch.arange(8)[None]
    assert torch.equal(first.model(tokens), direct.model(tokens))
    assert first.tokenizer is not None and first.settings == direct.settings
    notes = first.provenance
    assert (notes["uri"], notes["pinned"], notes["version"], notes["digest"]) == (URI, URI, "v2", "digest-v2")
    assert notes["sha256"] == direct.provenance["sha256"] and notes["step"] == 2
    server.key = False
    os.environ["WANDB_MODE"] = "offline"
    try:
        assert load(URI).provenance == notes and resolve(URI).name == "step_0000002.ckpt"
    finally:
        del os.environ["WANDB_MODE"]
    assert server.asked == ["me/toys/tiny:v2"] and server.downloaded == ["v2"]


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("a.ckpt", "https://evil.example/a.ckpt"),
        ("a.ckpt", "file:///etc/passwd"),
        ("a.ckpt", "s3://evil/a"),
        ("../../a.ckpt", None),
        ("/elsewhere/a.ckpt", None),
    ],
)
def test_the_files_of_an_artifact_come_from_it_and_stay_in_it(name: str, ref: str | None, server: Server) -> None:
    server.entries = {"b.ckpt": SimpleNamespace(ref=None), name: SimpleNamespace(ref=ref)}
    with pytest.raises(ValueError, match=f"cannot download it .its file {name} (is a reference to|lies outside)"):
        load(URI)
    assert not server.downloaded


def test_an_alias_is_looked_up_and_pinned_to_its_version(server: Server) -> None:
    reference = load("wandb:me/toys/tiny:latest")
    assert reference.provenance["pinned"] == URI and server.downloaded == ["v2"]
    load("wandb:me/toys/tiny:latest")
    assert len(server.asked) == 2 and server.downloaded == ["v2"]


def test_a_continued_run_compares_with_the_version_it_began_with(server: Server, home: Path) -> None:
    cfg = tiny(home, references="['wandb:me/toys/tiny:latest']")
    (home / "runs/new").mkdir(exist_ok=True)
    tokenizer = load(URI).tokenizer
    assert tokenizer is not None
    probe = torch.zeros(2, 8, dtype=torch.int64)
    find(cfg, home / "runs/new", tokenizer, probe)
    server.versions["v3"] = server.versions.pop("v1")
    again = find(cfg, home / "runs/new", tokenizer, probe)
    assert again.load("wandb:me/toys/tiny:latest") is not None and server.downloaded == ["v2"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("wandb:me/toys/tiny:v9", r"W&B does not return it \(artifact membership 'me/toys/tiny:v9' not found\)"),
        ("wandb:me/toys/tiny:v1", r"expected one .ckpt or .safetensors file in the artifact, found .*tokenizer.json"),
    ],
)
def test_a_missing_model_is_named(server: Server, uri: str, message: str) -> None:
    shutil.rmtree(server.versions["v1"] / "checkpoints")
    load(URI)
    with pytest.raises(ValueError, match=message):
        load(uri)


def test_without_a_connection_it_fails_at_once_and_lists_what_is_available(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(URI)
    server.key = False
    with pytest.raises(
        ValueError, match=r"it requires a key: set WANDB_API_KEY.*downloaded before \(v2\), or the path of"
    ):
        load("wandb:me/toys/tiny:v1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError, match=r"not in the cache, and WANDB_MODE=offline; give one that was downloaded"):
        load("wandb:me/toys/tiny:latest")
    assert len(server.asked) == 1


def test_an_interrupted_download_leaves_nothing(server: Server, tmp_path: Path) -> None:
    def breaks(version: str, root: str) -> None:
        Path(root).mkdir(parents=True)
        raise ConnectionError("reset")

    whole, server.give = server.give, breaks
    with pytest.raises(ValueError, match=r"cannot download it \(reset\)"):
        load(URI)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    server.give = whole
    assert load(URI).provenance["version"] == "v2"


class Kept(WandbRun):
    """A stand-in for W&B that collects artifacts in a list."""

    artifacts: list[tuple[Any, list[str]]]

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(log_artifact=lambda artifact, aliases: self.artifacts.append((artifact, aliases)))


@pytest.mark.parametrize(("asked", "steps"), [(False, []), (True, [2]), ("all", [1, 2])])
def test_the_requested_checkpoints_are_kept(home: Path, asked: Any, steps: list[int]) -> None:
    run = Kept("tiny run", home / "runs/tiny", mode="disabled", log_model=asked)
    run.artifacts = []
    for step in (1, 2):
        run.log_checkpoint(home / f"runs/tiny/checkpoints/step_{step:07d}.ckpt", step, step == 2)
    assert [artifact.metadata["step"] for artifact, _ in run.artifacts] == steps
    for (artifact, aliases), step in zip(run.artifacts, steps, strict=True):
        files = {f"checkpoints/step_{step:07d}.ckpt", "tokenizer.json", "config.yaml"}
        assert set(artifact.manifest.entries) == files and (artifact.name, artifact.type) == ("tiny-run", "model")
        assert aliases == ["latest", f"step_{step}"]


def test_another_choice_is_rejected(home: Path) -> None:
    with pytest.raises(ValueError, match="log_model=some: expected false, true or all"):
        WandbRun("tiny", home, mode="disabled", log_model="some")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_an_offline_run_keeps_each_checkpoint_of_its_schedule(home: Path) -> None:
    cfg = tiny(home, name="kept", logger="wandb", trainer__max_steps=2, logger__wandb__log_model="all")
    assert in_process(cfg) == 0
    (log,) = (home / "runs/kept").glob("wandb/offline-run-*/run-*.wandb")
    saved_steps = re.findall(rb"step_000000\d\.ckpt", log.read_bytes())
    assert set(saved_steps) == {b"step_0000000.ckpt", b"step_0000001.ckpt", b"step_0000002.ckpt"}
