"""All pairs of 16 language models, all layers, against their 16 captures; and the memory of references of 1b.

4 layers of width 128, 256 sequences of 128 tokens, debiased CKA; the target is less than 3 times the captures.
The floor is the products of the passes and of all pairs (self terms at half by symmetry), over the rate of float32
products. pytorch-cka, the fastest peer, runs both models for each pair and uses sequences as samples; like the
pairwise comparison, it is timed on one pair and multiplied by 120.
"""

import resource
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.apart import apart
from benchmarks.nets import D_VOCAB, untrained
from benchmarks.peers import installed
from benchmarks.timing import gemm_rate, interleaved, ratio, seconds, show
from dissimilarity import CKA, compare
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.probe.batches import capture_chunks, cut_sequences, sequences_per_batch

MODELS, LAYERS, WIDTH, SEQUENCES, LENGTH, BATCH = 16, 4, 128, 256, 128, 32
SITES = [f"blocks.{layer}.resid_post" for layer in range(LAYERS)]
BILLION: dict[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
}
"""Pythia-1b."""
SHORTER = 32
"""Number of sequences for references of 1b."""
GB = 1e9


def run() -> None:
    """Print both tables."""
    speed()
    memory()


def speed() -> None:
    """Print the seconds of all pairs, and their ratio to the captures."""
    nets = {
        f"model {seed}": untrained(["model=gelu", f"width={WIDTH}", f"depth={LAYERS}"], seed) for seed in range(MODELS)
    }
    tokens = torch.randint(D_VOCAB, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0))
    slices = cut_sequences(SEQUENCES, 16, sequences_per_batch(LENGTH))
    a, b = list(nets.values())[:2]
    couples = MODELS * (MODELS - 1) // 2

    def captures() -> None:
        for net in nets.values():
            for _ in capture_chunks(net, tokens, SITES, slices):
                pass

    def many(**options: object) -> Callable[[], float]:
        return lambda: seconds(lambda: compare_many(nets, tokens, measures=[CKA()], **options))  # pyright: ignore

    candidates = {
        "16 captures": lambda: seconds(captures),
        "all pairs": many(n_units=1, null=False),
        "all pairs, error bars and nulls": many(),
        "two by two": lambda: couples * seconds(lambda: compare(a, b, tokens, measures=[CKA()], n_units=1, null=False)),
        "two by two, error bars and nulls": lambda: couples * seconds(lambda: compare(a, b, tokens, measures=[CKA()])),
    }
    if peer := installed("cka"):
        batches = [(batch,) for batch in tokens.split(BATCH)]
        layers = [f"blocks.{layer}" for layer in range(LAYERS)]
        pytorch_cka = partial(peer.compute_cka, a, b, batches, layers=layers, device="cpu", progress=False)
        candidates["pytorch-cka, sequences as samples"] = lambda: couples * seconds(pytorch_cka)
    figures = interleaved(candidates)
    floor = floor_operations(a) / gemm_rate()
    rows = []
    for name, values in figures.items():
        low, middle, high = ratio(figures, name, "16 captures")
        rows.append(
            {
                f"{MODELS} models, {couples} pairs": name,
                "s": f"{statistics.median(values):.1f}",
                "times the captures": f"{middle:.2f} ({low:.2f} - {high:.2f})",
            }
        )
    show(rows)
    print(f"the floor of all pairs, captures included, without error bars and nulls: {floor:.1f} s")


def floor_operations(net: nn.Module) -> float:
    """Return the floating-point operations of all passes and of all products."""
    n, columns = SEQUENCES * LENGTH, LAYERS * WIDTH
    forward = 2 * n * sum(p.numel() for name, p in net.named_parameters() if "blocks" in name)
    attention = 2 * 2 * n * LENGTH * columns
    selves = n * WIDTH**2 * LAYERS
    return MODELS * (forward + attention + selves) + MODELS * (MODELS - 1) / 2 * 2 * n * columns**2


def memory() -> None:
    """Print the peak memory of comparisons with references of 1b parameters in bfloat16, each in its own process."""
    rows = []
    for name, labels in (("with a model of width 128", ("b", "small")), ("with another of 1b", ("b", "c"))):
        size, peak, pairs, duration = apart(_peak, labels)
        rows.append(
            {
                "a reference of 1b": name,
                "pairs of layers": str(pairs),
                "its weights, GB": f"{size:.2f}",
                "peak memory of the process, GB": f"{peak:.2f}",
                "above the weights, GB": f"{peak - size:.2f}",
                "s": f"{duration:.0f}",
            }
        )
    show(rows)


def _peak(labels: tuple[str, str]) -> tuple[float, float, int, float]:
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    sizes: list[int] = []

    def billion(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = AutoModelForCausalLM.from_config(GPTNeoXConfig(**BILLION), dtype=torch.bfloat16).eval()
        sizes.append(sum(parameter.nbytes for parameter in net.parameters()))
        return net

    models = {"b": lambda: billion(0), "c": lambda: billion(1), "small": lambda: untrained(["width=128", "depth=4"], 0)}
    tokens = torch.randint(D_VOCAB, (SHORTER, LENGTH), generator=torch.Generator().manual_seed(0))
    tables = []
    duration = seconds(lambda: tables.append(compare_many({k: models[k] for k in labels}, tokens, measures=[CKA()])))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(sizes) / GB, peak / GB, tables[0].num_rows, duration
