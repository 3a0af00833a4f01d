"""Many models that read the weights of one block at a time score what they score in memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dissimilarity.capture import offloaded as offloading
from dissimilarity.capture.offloaded import offloaded
from dissimilarity.capture.sites import site_table
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.kl import KL
from dissimilarity.measures.mutual_knn import MutualKNN
from dissimilarity.probe.outliers import Control

transformers = pytest.importorskip("transformers")

from dissimilarity.loading.pretrained import load_folder  # noqa: E402  needs transformers

TOKENS = torch.randint(50, (40, 10), generator=torch.Generator().manual_seed(0)).repeat(12, 1)
MEASURES = [CKA(), MutualKNN(), KL()]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offloading, "RESIDENT", 64)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for seed, (name, layers) in enumerate({"a": 2, "b": 2, "deep": 3}.items()):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2, "vocab_size": 50}
        config = transformers.GPTNeoXConfig(num_hidden_layers=layers, initializer_range=0.3, **sizes)
        transformers.GPTNeoXForCausalLM(config).save_pretrained(root / name, max_shard_size="8KB")
    return {path.name: path for path in sorted(root.iterdir())}


def counted(reads: Counter[str], read: Callable[[str], torch.Tensor], key: str) -> torch.Tensor:
    reads[key] += 1
    return read(key)


def loaders(folders: dict[str, Path], reads: Counter[str] | None = None) -> Any:
    """Return functions that load the models; with `reads`, block by block, counting how often a weight is read."""

    def load(name: str) -> Any:
        model = load_folder(folders[name], f"hf:{name}", reads is not None)[0].eval()
        weights = offloaded(model)
        if reads is not None and weights is not None:
            site_table(model)  # the names of sites take a pass of their own
            weights.read = partial(counted, reads, weights.read)
        return model

    def loader(name: str) -> Callable[[], Any]:
        return lambda: load(name)

    return {name: loader(name) for name in folders}


@pytest.mark.parametrize("control", [Control(), Control(drop_top_norm=2, normalize="layer_norm")])
def test_values_are_those_of_models_in_memory(folders: dict[str, Path], control: Control) -> None:
    reads: Counter[str] = Counter()
    whole = compare_many(loaders(folders), TOKENS, None, MEASURES, nulls=3, control=control)
    passed = compare_many(loaders(folders, reads), TOKENS, None, MEASURES, nulls=3, control=control)
    for column in ("model_a", "model_b", "measure", "site_a", "site_b", "n_units", "probe"):
        assert whole[column].to_pylist() == passed[column].to_pylist()
    for column in ("value", "stderr", "null", "p", "calibrated", "first_pc_a"):
        np.testing.assert_allclose(whole[column].to_pylist(), passed[column].to_pylist(), atol=1e-6, err_msg=column)
    passes = 2 if control.drop_top_norm else 1
    layers = Counter({"0": 3, "1": 3, "2": 1})
    blocks = Counter(name.split(".")[2] for name in reads.elements() if "query_key_value.weight" in name)
    assert blocks == Counter({layer: passes * count for layer, count in layers.items()})


def test_sequences_with_padding_are_refused(folders: dict[str, Path]) -> None:
    mask = torch.ones_like(TOKENS, dtype=torch.bool)
    mask[::2, -3:] = False
    with pytest.raises(ValueError, match="a: models run block by block only on sequences of equal length .* leave out"):
        compare_many(loaders(folders, Counter()), TOKENS, None, [CKA()], mask=mask)
