"""compare() of saved activations: every kind of file against the module that made it, and what is rejected."""

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dissimilarity import CKA, KL, RSA, MutualKNN, Procrustes, capture, compare
from dissimilarity.comparison.save import save_activations
from dissimilarity.comparison.saved import device_of_sources, open_source
from dissimilarity.functional import cka, mutual_knn
from tests.helpers.memory import printed_by
from tests.instrument.comparison.test_compare import LENGTH, SITES, model, table, tokens

MEASURES = [CKA(), Procrustes(), MutualKNN(k=5)]
KEYS = ("value", "dissimilarity", "stderr", "null", "calibrated", "n_samples")


def acts_of(width: int = 16, depth: int = 2, seed: int = 0, sequences: int = 21) -> dict[str, Tensor]:
    """Capture the streams of a model, (sequences, positions, d)."""
    net = model(width, depth, seed)
    with capture(net, SITES) as acts:
        net(tokens(sequences))
    return dict(acts)


def same(records: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 0.0) -> None:
    names = ("measure", "site_a", "site_b", "note")
    assert [[row[name] for name in names] for row in records] == [[row[name] for name in names] for row in expected]
    for row, other in zip(records, expected, strict=True):
        for key in KEYS:
            assert row[key] == pytest.approx(other[key], abs=tolerance, rel=tolerance, nan_ok=True), (row, key)


def as_npy_folder(acts: dict[str, Tensor], path: Path) -> Path:
    path.mkdir()
    for site, rows in acts.items():
        np.save(path / f"{site}.npy", rows.numpy())
    return path


def as_safetensors(acts: dict[str, Tensor], path: Path) -> str:
    save_file(acts, path.with_suffix(".safetensors"))
    return str(path.with_suffix(".safetensors"))


def as_arrays(acts: dict[str, Tensor], path: Path) -> dict[str, Any]:
    return {site: rows.numpy() for site, rows in acts.items()}


def as_memory_maps(acts: dict[str, Tensor], path: Path) -> dict[str, Any]:
    folder = as_npy_folder(acts, path)
    return {site: np.load(folder / f"{site}.npy", mmap_mode="r") for site in acts}


FORMS = [as_npy_folder, as_safetensors, as_arrays, as_memory_maps, lambda acts, path: acts]


@pytest.mark.parametrize("form", FORMS)
def test_saved_activations_give_the_table_of_the_models(form: Callable, tmp_path: Path) -> None:
    a, b = model(16, 2), model(24, 3, seed=1)
    expected = table(a, b, tokens(), measures=MEASURES)
    saved = form(acts_of(16, 2), tmp_path / "a"), form(acts_of(24, 3, 1), tmp_path / "b")
    same(table(*saved, measures=MEASURES), expected)
    same(table(a, saved[1], tokens(), measures=MEASURES), expected)
    same(table(saved[0], b, tokens(), measures=MEASURES), expected)
    matched = [row for row in expected if (row["site_a"][7], row["site_b"][7]) in (("0", "0"), ("1", "2"))]
    same(table(*saved, measures=MEASURES, pairs="matched"), matched, 1e-6)


def test_one_npy_file_is_one_site_named_as_the_file(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 300, 6))
    np.save(tmp_path / "early.npy", x)
    np.save(tmp_path / "late.npy", np.asfortranarray(x + y).astype(">f8"))
    (row,) = table(tmp_path / "early.npy", str(tmp_path / "late.npy"), measures=[CKA()])
    assert (row["site_a"], row["site_b"], row["n_samples"]) == ("early", "late", 300)
    assert row["value"] == pytest.approx(cka(torch.from_numpy(x), torch.from_numpy(x + y)).item(), abs=1e-12)
    assert row["stderr"] > 0 and abs(row["null"]) < 0.05


def test_rows_fold_into_the_sequences_of_the_other_side() -> None:
    a, b = acts_of(), acts_of(seed=1)
    flat = {site: rows.flatten(0, 1) for site, rows in b.items()}
    expected = table(a, b, measures=MEASURES)
    same(table(a, flat, measures=MEASURES), expected)
    same(table(flat, a, measures=[CKA()]), table(b, a, measures=[CKA()]))
    same(table(model(), flat, tokens(), measures=MEASURES), expected)
    same(table(a, b, pool="mean"), table(model(), model(seed=1), tokens(), pool="mean"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_their_rows_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    half = [{site: rows.to(dtype) for site, rows in acts_of(seed=seed).items()} for seed in (0, 1)]
    files = [as_safetensors(acts, tmp_path / str(index)) for index, acts in enumerate(half)]
    single = [{site: rows.float() for site, rows in acts.items()} for acts in half]
    same(table(*files, measures=MEASURES), table(*single, measures=MEASURES))
    (tmp_path / "npy").mkdir()
    if dtype == torch.float16:
        np.save(tmp_path / "npy" / "x.npy", half[0]["blocks.0.resid_post"].numpy())
        assert table(tmp_path / "npy", tmp_path / "npy")[0]["value"] == pytest.approx(1)


def test_sample_measures_read_a_subset_of_many_samples() -> None:
    """The same subset on both sides, while the moments cover all samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 8, generator=generator)
    y = torch.cat([x[:, :4], torch.randn(3000, 5, generator=generator)], 1)
    subset, every = table({"x": x}, {"y": y}, measures=[MutualKNN(max_samples=200), CKA()])
    assert (subset["measure"], subset["n_samples"], every["measure"], every["n_samples"]) == (
        "mutual_knn",
        200,
        "cka",
        3000,
    )
    assert every["value"] == pytest.approx(cka(x.double(), y.double()).item(), abs=1e-6)
    assert subset["value"] == pytest.approx(mutual_knn(x[:200], y[:200]).item(), abs=0.05)
    assert subset["null"] == pytest.approx(10 / 199, abs=0.03) and subset["stderr"] > 0
    (tokens_,) = table({"x": x.view(300, 10, 8)}, {"y": y.view(300, 10, 9)}, measures=[MutualKNN(max_samples=200)])
    assert tokens_["n_samples"] == 200


def test_sample_measures_read_the_same_of_many_sequences_from_files_and_models() -> None:
    """The subset that number and seed choose, in the units of the whole probe set."""

    def lookup(rows: Tensor) -> nn.Module:
        return nn.Sequential(OrderedDict(site=nn.Embedding.from_pretrained(rows), last=nn.Flatten()))

    x, noise = torch.randn(2, 300, 6, generator=torch.Generator().manual_seed(0))
    measures = [
        MutualKNN(k=5, max_samples=80),
        RSA(max_samples=50),
        RSA(compare="pearson", max_samples=120, seed=3),
        CKA(),
    ]
    options: dict[str, Any] = {"sites": "site", "measures": measures}
    of_models = table(lookup(x), lookup(x + noise), torch.arange(300)[:, None], **options)
    same(table({"site": x}, {"site": x + noise}, **options), of_models)


@pytest.mark.parametrize("many_sequences", [False, True])
def test_measures_of_outputs_read_the_saved_logits(many_sequences: bool) -> None:
    a, b = ({"x": torch.randn(2000, 4), "logits": torch.randn(2000, 7)} for _ in "ab")
    shape = (2000,) if many_sequences else (50, 40)  # more units than samples that are read, and fewer
    a, b = ({site: rows.view(*shape, -1) for site, rows in acts.items()} for acts in (a, b))
    cka_row, kl_row = table(a, b, measures=[KL(), CKA()])
    assert (cka_row["measure"], cka_row["site_a"], cka_row["n_samples"]) == ("cka", "x", 2000)
    assert (kl_row["measure"], kl_row["site_a"], kl_row["n_samples"]) == (
        "kl",
        "logits",
        1024 if many_sequences else 1000,
    )
    assert 0 < kl_row["value"] == pytest.approx(kl_row["null"], abs=0.1)
    both = table(a, b, measures=[CKA(), KL()], sites=["x", "logits"], pairs="matched")
    assert [(row["measure"], row["site_a"]) for row in both] == [("cka", "x"), ("cka", "logits"), ("kl", "logits")]
    with pytest.raises(ValueError, match="b: expected model outputs at the site 'logits'.*found x"):
        compare(a, {"x": b["x"]}, measures=[KL()])


def test_saving_a_model_and_comparing_the_file(tmp_path: Path) -> None:
    net = model(depth=3)
    text = tokens(1100)  # more than one forward pass
    path = save_activations(net, text, tmp_path / "new" / "net.safetensors", [SITES, "ln_final"])
    with capture(net, [SITES, "ln_final"]) as acts:
        net(text)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(acts)
        assert all(torch.allclose(file.get_tensor(site), rows, atol=1e-5) for site, rows in acts.items())
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]
    same(table(path, net, text, sites=SITES), table(net, net, text), 1e-5)
    save_activations(net.bfloat16(), text, path, "ln_final")
    with safe_open(path, "pt") as file:
        assert file.get_slice("ln_final").get_dtype() == "BF16"
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_activations(net, text, tmp_path / "net.npy")


def test_sites_are_all_that_was_saved_in_the_order_of_depth(tmp_path: Path) -> None:
    names = [f"blocks.{layer}.resid_post" for layer in range(12)]
    rows = {name: torch.randn(40, 3) for name in names}
    for path in (as_npy_folder(rows, tmp_path / "a"), as_safetensors(rows, tmp_path / "b")):
        assert [row["site_a"] for row in table(path, {"x": torch.randn(40, 4)}, measures=[CKA()])] == names
    assert table(rows, rows, sites="blocks.1?.*", measures=[CKA()])[0]["site_a"] == names[10]
    with pytest.raises(ValueError, match=r"no site of a matches 'ln_final'; it has blocks.\{0-11\}.resid_post"):
        compare(rows, rows, sites="ln_final")


def test_a_saved_site_is_found_by_its_name_with_brackets_too() -> None:
    """Brackets are part of a glob; a name that is typed as it is stands for itself."""
    x = {"h[0]": torch.randn(64, 5), "h[1]": torch.randn(64, 5), "h0": torch.randn(64, 5)}
    table = compare(x, x, sites=["h[1]"], measures=[CKA()])
    assert table["site_a"].to_pylist() == ["h[1]"]
    assert compare(x, x, sites=["h[01]"], measures=[CKA()])["site_a"].to_pylist() == ["h0"]


def test_values_that_are_not_finite_leave_a_note_as_in_a_model() -> None:
    x, y = torch.randn(2, 50, 4)
    bad = y.clone()
    bad[3, 1], bad[40] = float("nan"), float("inf")
    good, broken = table({"x": x}, {"y": y, "bad": bad}, measures=[CKA()])
    assert math.isfinite(good["value"]) and math.isnan(broken["value"]) and math.isnan(broken["calibrated"])
    assert broken["note"].startswith("5 values at bad are NaN or infinite, in sequences 3 and 40 of 50: leave them out")


X = torch.randn(60, 4)
IDS = {"x": X, "sample_ids": np.arange(60)}

REFUSED: dict[str, tuple[Any, Any, str]] = {
    "another n": ({"x": X}, {"y": X[:59]}, r"same samples on both sides, found a: \(60, 4\) and, at y of b, \(59, 4\)"),
    "another n within": ({"x": X, "z": X[:7]}, {"y": X}, r"at z of a, \(7, 4\)"),
    "one dimension": ({"x": X[:, 0]}, {"y": X}, r"expected activations \(n, d\) or .* at x, found \(60,\)"),
    "four dimensions": (
        {"x": X[:, None, None]},
        {"y": X},
        r"of \(60, 1, 1, 4\) holds the features at x; pass channels=",
    ),
    "no samples": ({"x": X[:0]}, {"y": X[:0]}, r"the activations at x are empty: \(0, 4\)"),
    "whole numbers": ({"x": X.long()}, {"y": X}, "floating-point activations at x, found torch.int64"),
    "no sites": ({"sample_ids": np.arange(60)}, {"y": X}, "a holds no activations"),
    "not a source": (3, {"y": X}, "a: expected an nn.Module, a .npy .* found int"),
    "no file": ("gone.npy", {"y": X}, "cannot read gone.npy: no such file"),
    "no such kind": ("gone.txt", {"y": X}, "gone.txt: no such file; pass an nn.Module"),
    "ids differ": (
        IDS,
        {"x": X, "sample_ids": np.r_[0:10, 11, 10, 12:60]},
        "2 of 60 sample_ids of a and b differ, the first 10 and 11",
    ),
    "ids of another number": (IDS, {"x": X, "sample_ids": np.arange(59)}, "b: expected 60 sample_ids.*found 59"),
    "a model without tokens": (model(), {"y": X}, "expected tokens to run the model on, found none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_cannot_be_compared_are_rejected(case: str, unchecked: None) -> None:
    a, b, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        compare(a, b)


def test_tokens_of_another_number_than_saved_are_rejected() -> None:
    with pytest.raises(ValueError, match=rf"found the tokens: \(20, {LENGTH}\) and, at .* of b, \(21, {LENGTH}, 16\)"):
        compare(model(), acts_of(), tokens(20))


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = Path(as_safetensors({"x": X}, tmp_path / "x"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot read .*x.safetensors"):
        compare(file, {"y": X})
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot read .*o.npy"):
        compare(tmp_path / "o.npy", {"y": X})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no activations"):
        compare(tmp_path / "empty", {"y": X})


def test_sums_are_computed_where_the_model_is_and_without_one_where_tensors_are() -> None:
    array, tensor = (open_source({"x": x}, "a") for x in (np.ones((4, 2)), torch.ones(4, 2, device="meta")))
    places = [device_of_sources(*sources).type for sources in ((array, tensor), (array,), (tensor, nn.Linear(2, 2)))]
    assert places == ["meta", "cpu", "cpu"]


def test_equal_ids_of_any_form_pass(tmp_path: Path) -> None:
    names = np.array([f"text-{index}" for index in range(60)])
    np.save(tmp_path / "x.npy", X.numpy())
    np.save(tmp_path / "sample_ids.npy", names)
    (row,) = table(tmp_path, {"y": X, "sample_ids": names}, measures=[CKA()])
    assert row["site_a"] == "x" and row["value"] == pytest.approx(1)
    folded = {"x": X.view(12, 5, 4), "sample_ids": np.arange(60).reshape(12, 5)}
    assert len(table(folded, {"y": X, "sample_ids": torch.arange(60)}, measures=[CKA()])) == 1
    assert len(table(folded, {"y": X}, measures=[CKA()])) == 1


MEMORY = """
import sys, torch
from dissimilarity import CKA, MutualKNN, Procrustes, compare
from tests.helpers.memory import peak_during
torch.set_num_threads(1)
def peak(samples, kind):
    measures = [CKA(), Procrustes(), MutualKNN(max_samples=256)]
    path = f"{sys.argv[1]}/{samples}{kind}"
    return peak_during(lambda: compare(path, path, None, None, measures, nulls=1))
kinds = [".npy", ".safetensors"]
print(max(peak(8192, kind) for kind in kinds), *(peak(499_968, kind) for kind in kinds))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Each side reads a file of 128 MB."""
    for n in (8192, 499_968):
        rows = np.random.default_rng(0).standard_normal((n // 64, 64, 64), dtype=np.float32)
        np.save(tmp_path / f"{n}.npy", rows)
        save_file({"x": torch.from_numpy(rows)}, tmp_path / f"{n}.safetensors")
    small, *large = printed_by(MEMORY, tmp_path)
    assert max(large) - small < 60


class Routed(nn.Module):
    """A network that chooses, for each token, which of its parts reads it: a site of whole numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choice = nn.Identity()
        self.table = torch.randint(9, (50, 4), generator=torch.Generator().manual_seed(seed))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.choice(self.table[tokens])


def test_whole_numbers_are_saved_as_they_are_compared(tmp_path: Path) -> None:
    numbers = torch.randint(50, (21, 8), generator=torch.Generator().manual_seed(0))
    paths = [save_activations(Routed(seed), numbers, tmp_path / f"{seed}.safetensors", "choice") for seed in (0, 1)]
    saved = compare(*map(str, paths), measures=CKA()).to_pylist()
    same(saved, compare(Routed(0), Routed(1), numbers, "choice", CKA()).to_pylist())
    samples = (Routed(seed)(numbers).flatten(0, 1).double() for seed in (0, 1))
    expected = cka(*samples, units=torch.arange(21).repeat_interleave(8))
    assert saved[0]["value"] == pytest.approx(expected.item(), abs=1e-6)
