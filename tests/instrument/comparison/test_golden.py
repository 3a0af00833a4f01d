"""Values of the whole instrument on fixed nets and texts, in float64, compared with those before a rewrite.

`python -m tests.instrument.comparison.test_golden` rewrites golden.json; run it only where a value is meant to change.
With cross-fitted measures among all measures, standard errors take 16 groups of sequences; `aligned` takes sequences.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import train
from dissimilarity import CKA, Procrustes, compare
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.alignment import Tokenized, align
from dissimilarity.stitching import direct_penalties
from dissimilarity.tables.curves import read_curves
from dissimilarity.tracking import tables
from launch.cli.compose import compose
from models.transformer import Transformer
from settings import instantiate
from tests.helpers.tiny_run import tiny

GOLDEN = Path(__file__).parent / "golden.json"
VOCABULARY, LENGTH, SEQUENCES = 23, 12, 40
UNSTABLE = {"seconds", "note"}
Records = list[dict[str, Any]]


def net(seed: int, width: int = 16, depth: int = 2) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(d_model=width, n_layers=depth, d_head=8, n_ctx=LENGTH, d_vocab=VOCABULARY, activation=nn.GELU)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(seed))


def every_measure() -> list[Measure]:
    return [instantiate(node) for node in compose(["measures=all"]).measures.values()]


def compared() -> Records:
    return compare(net(1), net(2, 24, 3), tokens(), measures=every_measure()).to_pylist()


def compared_with_mask() -> Records:
    lengths = torch.randint(4, LENGTH + 1, (SEQUENCES, 1), generator=torch.Generator().manual_seed(5))
    mask = torch.arange(LENGTH) < lengths
    return compare(net(1), net(2, 24, 3), tokens(), measures=every_measure(), mask=mask).to_pylist()


def many_compared() -> Records:
    models = {"a": net(1), "b": net(2, 24, 3), "c": net(3, 16, 1)}
    loaders: dict[str, Callable[[], nn.Module]] = {name: lambda model=model: model for name, model in models.items()}
    return compare_many(loaders, tokens(), measures=every_measure()).to_pylist()


def penalties() -> Records:
    pairs = [("blocks.0.resid_post", "blocks.1.resid_post"), ("blocks.1.resid_post", "blocks.2.resid_post")]
    held_out = torch.arange(SEQUENCES) % 4 == 3
    values = direct_penalties(net(1), net(2, 24, 3), tokens()[~held_out], tokens()[held_out], pairs)
    return [{"front": front, "back": back, **vars(penalty)} for (front, back), penalty in values.items()]


def aligned() -> Records:
    """Compare characters with pairs of characters: one text, two tokenizations."""
    text = tokens(7)
    single = [[(place, place + 1) for place in range(LENGTH)]] * SEQUENCES
    double = [[(place, place + 2) for place in range(0, LENGTH, 2)]] * SEQUENCES
    texts = ["ab cd ef gh " for _ in range(SEQUENCES)]
    first = Tokenized(text, torch.tensor(single))
    second = Tokenized((text[:, ::2] * 3 + text[:, 1::2]) % VOCABULARY, torch.tensor(double))
    both = align(first, second, texts, "token")
    return compare(net(1), net(2, 24, 3), both, measures=[CKA(), Procrustes()]).to_pylist()


def tracked(folder: Path) -> Records:
    """Train with three references: the start, the model a few steps before, and another run."""
    changes = {"trainer.precision": "64-true", "measures": "all"}
    train.train(tiny(folder, name="other", seed=1, references="[init]", **{**changes, "measures": "fast"}))
    other = folder / "runs" / "other" / "checkpoints" / "last.ckpt"
    train.train(tiny(folder, references=f"[init,previous,{other}]", **changes))
    rows = read_curves(folder / "runs" / "tiny").to_pylist()
    return [{**row, "reference": "other" if row["reference"].endswith(".ckpt") else row["reference"]} for row in rows]


PARTS: dict[str, Callable[[], Records]] = {
    "compare": compared,
    "compare_with_mask": compared_with_mask,
    "compare_many": many_compared,
    "direct_penalties": penalties,
    "aligned": aligned,
}


def plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def check(records: Records, name: str, tolerance: float = 1e-9) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    assert len(records) == len(golden["records"]) > 0
    for record, expected in zip(records, golden["records"], strict=True):
        for column, before in zip(golden["columns"], expected, strict=True):
            after = plain(record[column])
            if isinstance(before, (float, list)) and after is not None:
                assert after == pytest.approx(before, rel=tolerance, abs=tolerance), (name, column, record)
            else:
                assert after == before, (name, column, record)


@pytest.mark.parametrize("name", PARTS)
def test_values_are_what_they_were(name: str) -> None:
    check(PARTS[name](), name)


def test_curves_are_what_they_were(tmp_path: Path) -> None:
    """The loss is float32, which processors round differently: 1e-6 after 11 steps."""
    check(tracked(tmp_path), "tracked", 1e-4)


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    torch.set_num_threads(1)
    tables.draw_run = lambda folder, **options: []
    with TemporaryDirectory() as folder:
        content = {name: part() for name, part in PARTS.items()} | {"tracked": tracked(Path(folder))}
    golden = []
    for name, records in content.items():
        columns = [column for column in records[0] if column not in UNSTABLE]
        lines = [json.dumps([plain(record[column]) for column in columns]) for record in records]
        golden.append(f'"{name}": {{"columns": {json.dumps(columns)}, "records": [\n' + ",\n".join(lines) + "\n]}")
    GOLDEN.write_text("{\n" + ",\n".join(golden) + "\n}\n")
