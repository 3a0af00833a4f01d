"""MNLI and HANS, with local stand-ins in the layout of the hub and without a network."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from data.examples import Example
from data.examples.mnli_hans import MnliHans
from data.text_classification import TextClassificationDataModule
from data.tokenizers import BytePairs

STRING = Value("string")


def save(folder: Path, config: str, split: str, rows: dict, features: dict) -> None:
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(rows, Features(features)).to_parquet(folder / f"{split}.parquet")
    head = "" if (folder / "README.md").exists() else f"configs:\n- config_name: {config}\n  data_files:\n"
    old = (folder / "README.md").read_text().removesuffix("---\n") if not head else "---\n"
    (folder / "README.md").write_text(f"{old}{head}  - split: {split}\n    path: {split}.parquet\n---\n")


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("hub")
    # Another order than the hub's: the names in the file count.
    names = ClassLabel(names=["contradiction", "entailment", "neutral"])
    features = {"premise": STRING, "hypothesis": STRING, "label": names, "idx": Value("int32")}
    for split, count in {"train": 6, "validation_matched": 3}.items():
        rows = {"premise": [f"{split} {n}" for n in range(count)], "hypothesis": ["h"] * count}
        save(
            root / "mnli",
            "mnli",
            split,
            rows | {"label": [n % 3 for n in range(count)], "idx": list(range(count))},
            features,
        )
    rows = {
        "premise": ["a", "b", "c"],
        "hypothesis": ["d", "e", "f"],
        "label": [1, 0, 1],
        "heuristic": ["lexical_overlap", "lexical_overlap", "constituent"],
        "subcase": ["ln_x/y", "le_z", "cn_w"],
    }
    save(root / "hans", "default", "validation", rows, {k: Value("int64") if k == "label" else STRING for k in rows})
    return {"mnli": str(root / "mnli"), "hans": str(root / "hans")}


def test_mnli_is_learned_from_and_hans_is_cut_by_heuristic_and_label(stand_ins):
    splits = MnliHans(**stand_ins).splits()
    assert list(splits) == [
        "train",
        "val",
        "lexical_overlap.non_entailment",
        "lexical_overlap.entailment",
        "constituent.non_entailment",
    ]
    assert [example.label for example in splits["train"]] == ["contradiction", "entailment", "neutral"] * 2
    assert splits["val"][1] == Example("validation_matched 1", "h", "entailment")
    assert splits["lexical_overlap.non_entailment"] == [
        Example("a", "d", "non-entailment", "lexical_overlap.non_entailment.ln_x/y")
    ]
    assert len(MnliHans(**stand_ins, max_examples=4).splits()["train"]) == 4


def test_three_labels_are_scored_on_two(stand_ins):
    merge = {"neutral": "non-entailment", "contradiction": "non-entailment"}
    data = TextClassificationDataModule(
        source=MnliHans(**stand_ins), tokenizer=BytePairs(300), merge=merge, batch_size=2
    )
    data.setup()
    assert data.labels == data.names_of("val") == ("contradiction", "entailment", "neutral")
    assert data.names_of("lexical_overlap.entailment") == ("entailment", "non-entailment")
    assert data.classes_of("lexical_overlap.entailment").tolist() == [1, 0, 1]
    assert data.encoded("lexical_overlap.entailment")[1].tolist() == [0]


def test_a_different_data_set_is_rejected(stand_ins, tmp_path):
    with pytest.raises(
        ValueError, match=r"could not read the data set 'no/where' .* use data that needs none: data=heur"
    ):
        MnliHans(mnli="no/where").splits()
    with pytest.raises(ValueError, match=r"expected columns \[.*'heuristic'.*\] in .*: it is another data set"):
        MnliHans(mnli=stand_ins["mnli"], hans=other(tmp_path)).splits()
    with pytest.raises(ValueError, match="max_examples >= 1 or null, found 0"):
        MnliHans(max_examples=0)


def other(folder: Path) -> str:
    save(folder / "other", "default", "validation", {"premise": ["a"]}, {"premise": STRING})
    return str(folder / "other")
