"""study=asymmetry over published toy models, here four tiny folders in their form."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import settings
from analyze import analyze
from data.tokenizers import BytePairs
from dissimilarity.stitching import direct_penalties
from launch.cli.compose import compose
from models.exchange.shape import Shape
from models.references import load
from studies.asymmetry.grid import divided
from studies.asymmetry.stitches import ModelAtStep
from tests.helpers.foreign import Hub, published_folder, random_net
from tests.helpers.tiny_text import tiny_texts, write_jsonl

SEEDS = {2: 9153, 3: 989422}


def shape(activation: str, depth: int) -> Shape:
    return Shape(16, depth, 8, 16, 300, activation, 64, mlp_norm=activation == "solu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with text, and models of two families and two depths in one tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    write_jsonl(folder / "text.jsonl", tiny_texts(120))
    BytePairs(300).build(tiny_texts(120)).save(str(folder / "tokenizer.json"))
    for number, (family, depth) in enumerate((family, depth) for depth in SEEDS for family in ("solu", "gelu")):
        net = random_net(shape(family, depth), number, scale=0.1)
        published_folder(
            folder / f"{family}-{depth}l", net, shape(family, depth), folder / "tokenizer.json", seed=SEEDS[depth]
        )
    return folder


def study(home: Path, results: Path, models: str, *more: str) -> Path:
    text = [f"data.source.paths=[{home / 'text.jsonl'}]", f"data.cache_dir={home / 'cache'}", "data.n_ctx=16"]
    sizes = ["study.fit_sequences=24", "study.sequences=8", "study.length=16", "study.stitch_steps=2"]
    return analyze(
        compose(["study=asymmetry", models, "data=files", *text, *sizes, f"results_dir={results}", *more], "analyze")
    )


def folders(home: Path) -> str:
    return f"models=[{','.join(f'tl:{home}/{family}-{depth}l' for depth in SEEDS for family in ('solu', 'gelu'))}]"


@pytest.fixture(scope="module")
def results_folder(home: Path) -> Path:
    return study(home, home / "results", folders(home))


def test_four_folders_are_stitched_as_siblings_of_one_depth(results_folder: Path) -> None:
    rows = pq.read_table(results_folder / "table.parquet").to_pylist()
    names = {f"{family}-{depth}l" for depth in SEEDS for family in ("solu", "gelu")}
    assert {row["front"] for row in rows} == names
    assert {row["kinship"] for row in rows} == {"self", "sibling"} and {row["step"] for row in rows} == {0}
    assert all(row["front"][-2:] == row["back"][-2:] for row in rows), "only models of one depth"
    fits = {(row["family_front"], row["family_back"], row["fit"]) for row in rows if row["front"] != row["back"]}
    for pair in (("solu", "gelu"), ("gelu", "solu")):
        assert {(*pair, fit) for fit in ("direct", "task", "paper", "null_random", "null_shuffled")} <= fits
    for row in rows:
        assert row["penalty"] == pytest.approx(row["loss_stitched"] - row["loss_back"], abs=1e-6)
    summary = (results_folder / "summary.md").read_text()
    assert "Between sibling models solu -> gelu" in summary and "Between independent" not in summary
    assert len(list((results_folder / "figures").glob("*.png"))) == 2


def test_the_penalty_is_that_of_the_models_on_text_that_begins_as_theirs_did(home: Path, results_folder: Path) -> None:
    text = [f"data.source.paths=[{home / 'text.jsonl'}]", f"data.cache_dir={home / 'cache'}", "data.n_ctx=16"]
    tokenizer = ["data/tokenizer=file", f"data.tokenizer.path={home / 'tokenizer.json'}"]
    data = settings.instantiate(compose(["data=files", *text, *tokenizer]).data)
    data.prepare_data()
    data.setup("fit")
    tokens = data.probe(32, 16, "val")
    tokens[:, 0] = data.tokenizer.token_to_id("<|endoftext|>")
    halves = divided(tokens, 8, data.bytes_per_token)
    front, back = (load(f"tl:{home}/{name}-2l").model for name in ("solu", "gelu"))
    site = "blocks.0.resid_post"
    expected = direct_penalties(front, back, halves.fit, halves.held_out, [(site, site)], "affine")[site, site]
    (row,) = [
        row
        for row in pq.read_table(results_folder / "table.parquet").to_pylist()
        if (row["front"], row["back"], row["site"], row["fit"]) == ("solu-2l", "gelu-2l", site, "direct")
        and row["kind"] == "affine"
    ]
    assert row["penalty"] == pytest.approx(expected.value, abs=1e-6)
    with torch.no_grad():
        logits = back(halves.held_out)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), halves.held_out[:, 1:].flatten())
    assert row["loss_back"] == pytest.approx(float(loss), abs=1e-5)


def test_tl_stands_for_the_papers_four_models(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = [f"tl:{name}" for name in settings.PUBLISHED["tl"][1]]
    for name, folder in zip(published, ("solu-2l", "gelu-2l", "solu-3l", "gelu-3l"), strict=True):
        family = {"s": "SoLU", "g": "GELU"}[name[3]]
        place = tmp_path / "hub/NeelNanda" / f"{family}_{name[-2]}L512W_C4_Code"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(home / folder)
    hub = Hub(tmp_path / "hub", monkeypatch)
    monkeypatch.setattr("studies.asymmetry.study.main_records", stop)
    with pytest.raises(StoppedError) as stopped:
        study(home, tmp_path / "results", "models=tl")
    assert stopped.value.args[0] == published
    assert len({model for model, *_ in hub.asked}) == 4


class StoppedError(Exception):
    """Raised where the stitching would begin."""


def stop(models: list[list[ModelAtStep]], *_: object) -> None:
    raise StoppedError([steps[0].run for steps in models])


@pytest.mark.parametrize(
    ("models", "text", "message"),
    [
        ("models=tl", False, "come without text: type data=mix"),
        ("models=tl", True, r"SoLU_3L512W_C4_Code was not downloaded before.*HF_HUB_OFFLINE.*tl:FOLDER"),
        ("models=[tl:{home}/solu-2l,runs/a]", True, "models: tl:.* takes whole runs, .* or models=.tl:solu-3l"),
        ("models=[tl:{home}/solu-2l]", True, "expected models of the families solu and gelu, found solu"),
    ],
)
def test_models_that_cannot_be_studied_are_rejected_before_anything_is_written(
    home: Path, tmp_path: Path, models: str, text: bool, message: str
) -> None:
    def run() -> Path:
        if not text:
            return analyze(compose(["study=asymmetry", models, f"results_dir={tmp_path}"], "analyze"))
        return study(home, tmp_path, models.format(home=home))

    with pytest.raises(ValueError, match=message):
        run()
    assert "families" in message or not list(tmp_path.iterdir())


def test_models_without_a_seed_are_independent(home: Path, tmp_path: Path) -> None:
    for family in ("solu", "gelu"):
        net = random_net(shape(family, 2), 5, scale=0.1)
        published_folder(tmp_path / family, net, shape(family, 2), home / "tokenizer.json", seed=None)
    folder = study(home, tmp_path / "results", f"models=[tl:{tmp_path}/solu,tl:{tmp_path}/gelu]")
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    assert {row["kinship"] for row in rows} == {"self", "independent"}
    assert len(json.loads((folder / "provenance.json").read_text())["models"]) == 2
