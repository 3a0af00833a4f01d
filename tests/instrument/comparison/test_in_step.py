"""Models that read the weights of one block at a time score what they score in memory."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dissimilarity.capture import offloaded as offloading
from dissimilarity.capture.offloaded import offloaded
from dissimilarity.capture.paused import PausedCall
from dissimilarity.capture.sites import site_table
from dissimilarity.comparison.compare import compare
from dissimilarity.comparison.elementwise import Differences, elementwise
from dissimilarity.comparison.in_step import compare_in_step
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.kl import KL
from dissimilarity.measures.mutual_knn import MutualKNN
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.probe.alignment import Tokenized, align
from dissimilarity.probe.steps import Steps, groups_of

transformers = pytest.importorskip("transformers")

from dissimilarity.loading.pretrained import load_folder  # noqa: E402  needs transformers

TOKENS = torch.randint(50, (12, 10), generator=torch.Generator().manual_seed(0))
MEASURES = [CKA(), Procrustes(), MutualKNN(), KL()]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_small():
    patch = pytest.MonkeyPatch()
    patch.setattr(offloading, "RESIDENT", 64)
    yield
    patch.undo()


def llama(folder: Path, seed: int, layers: int) -> Path:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2, "vocab_size": 50}
    config = transformers.LlamaConfig(num_hidden_layers=layers, initializer_range=0.3, **sizes)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="8KB")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [llama(root / name, seed, layers) for seed, (name, layers) in enumerate([("a", 3), ("b", 3), ("deep", 5)])]


def opened(folder: Path, block_by_block: bool) -> Any:
    return load_folder(folder, f"hf:{folder}", block_by_block)[0].eval()


def both(folders: Sequence[Path], block_by_block: bool) -> tuple[Any, Any]:
    return opened(folders[0], block_by_block), opened(folders[1], block_by_block)


def assert_equal_tables(one: Any, other: Any) -> None:
    assert one["measure"].to_pylist() == other["measure"].to_pylist()
    for column in ("site_a", "site_b", "probe", "n_units"):
        assert one[column].to_pylist() == other[column].to_pylist()
    for column in ("value", "stderr", "null", "p", "p_best", "calibrated", "first_pc_a", "first_pc_b"):
        np.testing.assert_allclose(one[column].to_pylist(), other[column].to_pylist(), atol=1e-6, err_msg=column)


@pytest.mark.parametrize("second", [1, 2])
def test_values_are_those_of_models_in_memory(folders: list[Path], second: int) -> None:
    pair = folders[0], folders[second]
    whole = compare(*both(pair, False), TOKENS, None, MEASURES, "matched", nulls=20)
    stepped = compare_in_step(*both(pair, True), TOKENS, None, MEASURES, 20)
    assert_equal_tables(whole, stepped)


def test_differences_number_by_number_are_those_of_models_in_memory(folders: list[Path]) -> None:
    a, b = both(folders, True)
    collected = Differences()
    compare_in_step(a, b, TOKENS, "blocks.*.resid_*", [CKA()], differences=collected)
    sites = [f"blocks.{layer}.{site}" for layer in range(3) for site in ("resid_pre", "resid_mid", "resid_post")]
    pairs = [(site, site) for site in sites]
    whole = elementwise(*both(folders[:2], False), TOKENS, pairs)
    stepped = collected.result(a, b, TOKENS, torch.float32)
    assert [site.site_a for site in stepped.sites] == [site for site, _ in pairs]
    for one, other in zip(whole.sites, stepped.sites, strict=True):
        np.testing.assert_allclose(list(vars(one).values())[2:], list(vars(other).values())[2:], rtol=1e-5)
    np.testing.assert_allclose(list(vars(whole.outputs).values()), list(vars(stepped.outputs).values()), rtol=1e-5)


def test_a_weight_is_read_once_and_two_blocks_are_never_in_memory(folders: list[Path]) -> None:
    model, other = opened(folders[0], True), opened(folders[1], True)
    weights = offloaded(model)
    assert weights is not None
    site_table(model)  # the names of sites take a pass of their own
    reads, blocks = Counter(), set()
    original = weights.read

    def read(name: str) -> torch.Tensor:
        reads[name] += 1
        loaded = {weights.names[weight] for weight in weights.loaded}
        blocks.add(len({name.split(".")[2] for name in loaded if ".layers." in name}))
        return original(name)

    weights.read = read
    compare_in_step(model, other, TOKENS.repeat(30, 1), None, [CKA(), KL()])
    assert len(groups_of(TOKENS.repeat(30, 1))) == 4
    assert set(reads.values()) == {1} and set(reads) == set(weights.names.values()) and max(blocks) == 1
    assert all(weight.is_meta for weight in model.parameters() if weight.numel() > 64) and not weights.loaded


def test_texts_in_other_tokens_are_compared_at_the_same_words(folders: list[Path]) -> None:
    texts = [" ".join(["word"] * count) for count in (9, 7, 8, 9, 6, 9)]

    def tokenized(seed: int) -> Tokenized:
        generator = torch.Generator().manual_seed(seed)
        tokens, spans = torch.zeros(6, 9, dtype=torch.long), torch.zeros(6, 9, 2, dtype=torch.long)
        mask = torch.zeros(6, 9, dtype=torch.bool)
        for row, text in enumerate(texts):
            count = len(text.split())
            tokens[row, :count] = torch.randint(1, 50, (count,), generator=generator)
            spans[row, :count] = torch.tensor([(5 * place, 5 * place + 4) for place in range(count)])
            mask[row, :count] = True
        return Tokenized(tokens, spans, mask)

    alignment = align(tokenized(0), tokenized(1), texts)
    whole = compare(*both(folders[:2], False), alignment, None, MEASURES[:3], "matched")
    stepped = compare_in_step(*both(folders[:2], True), alignment, None, MEASURES[:3])
    assert_equal_tables(whole, stepped)


def test_a_site_that_is_not_passed_is_named(folders: list[Path]) -> None:
    model = opened(folders[0], True)
    model.model.layers[1].unused = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="did not reach model.layers.1.unused"):
        compare_in_step(model, opened(folders[1], True), TOKENS, "model.layers.1.unused|blocks.1.resid_post", [CKA()])


def test_an_error_in_a_pass_ends_it_and_leaves_the_model_as_it_was(folders: list[Path]) -> None:
    model = opened(folders[0], True)

    def fail(*args: Any) -> None:
        raise ZeroDivisionError("planted")

    handle = model.model.layers[1].register_forward_pre_hook(fail)
    steps = Steps(model, groups_of(TOKENS), ["model.layers.1"])
    with pytest.raises(ZeroDivisionError, match="planted"), steps.attached():
        steps.step()
        steps.step()
        steps.step()
    handle.remove()
    weights = offloaded(model)
    assert weights is not None and not weights.loaded and not weights.is_held
    with torch.no_grad():
        assert model(TOKENS[:1]).logits.isfinite().all()


def test_a_paused_call_that_nobody_resumes_ends() -> None:
    ended = []

    def call() -> None:
        try:
            paused.pause()
        finally:
            ended.append(True)

    paused = PausedCall(call)
    assert paused.resume() is False and not ended
    paused.close()
    assert ended
