"""What a mistyped or misplaced key is taken for: the same last part anywhere in the tree comes first."""

import pytest
from omegaconf import DictConfig

from launch.cli.compose import compose
from launch.cli.suggestions import dotted_keys, suggestions


@pytest.fixture(scope="module")
def configs() -> dict[str, DictConfig]:
    return {"train": compose([]), "analyze": compose([], "analyze")}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("max_steps", ["trainer.max_steps"]),
        ("batch_size", ["data.batch_size"]),
        ("lr", ["optim.lr_matrices", "optim.lr_other", "optim.final_lr"]),
        ("optim.learning_rate", ["optim.lr_matrices", "optim.lr_other", "optim.final_lr"]),
        ("train.max_steps", ["trainer.max_steps"]),
        ("optim.batch_size", ["data.batch_size"]),
        ("epochs", ["trainer.max_steps"]),
        ("max_epochs", ["trainer.max_steps"]),
        ("n_layers", ["depth"]),
        ("d_model", ["width"]),
        ("widht", ["width"]),
        ("max_stepz", ["trainer.max_steps"]),
        ("vocab_size", ["data.tokenizer.vocab_size"]),
        ("cache_dir", ["data.cache_dir"]),
        ("device", ["trainer.accelerator"]),
        ("dropout", []),
    ],
)
def test_a_key_is_found_wherever_it_is(configs: dict[str, DictConfig], key: str, expected: list[str]) -> None:
    assert suggestions(key, configs["train"], dotted_keys(configs["train"])) == expected


def test_a_study_has_its_own_keys(configs: dict[str, DictConfig]) -> None:
    cfg = configs["analyze"]
    assert suggestions("model", cfg, dotted_keys(cfg)) == ["models"]
    assert suggestions("sequences", cfg, dotted_keys(cfg)) == ["probe.sequences"]
