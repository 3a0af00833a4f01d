"""The documentation of keys: docs/configuration.md and `--help` say what the comments of conf/ say."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from launch.cli import help, reference
from launch.cli.compose import CONF, groups
from settings import Analysis, Settings


def test_the_page_is_generated_from_the_comments_of_conf() -> None:
    page = (CONF.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference.page(), "run: python -m launch.cli.reference > docs/configuration.md"


@pytest.mark.parametrize(("command", "root"), [("train", Settings), ("analyze", Analysis)])
def test_every_key_of_the_root_is_documented(command: str, root: type) -> None:
    names = []
    for field in fields(root):
        inner = fields(field.type) if isinstance(field.type, type) and is_dataclass(field.type) else ()
        names += [f"{field.name}.{key.name}" for key in inner] or [field.name]
    documented = {key.name for key in reference.documented_keys(CONF / f"{command}.yaml") if key.kind and key.meaning}
    assert documented == set(names) - set(groups(command))


@pytest.mark.parametrize("command", ["train", "analyze"])
def test_help_shows_the_comments_of_conf(command: str) -> None:
    words = " ".join(help.page([], command).split())
    for key in reference.documented_keys(CONF / f"{command}.yaml"):
        if key.kind:
            assert f"{key.kind}: {key.meaning}" in words


def test_every_choice_of_every_group_has_a_description() -> None:
    for command in ("train", "analyze"):
        for group in groups(command):
            assert all(reference.description(path) for path in reference.choices(group).values()), group


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_a_comment_gives_the_type_and_the_meaning(path: Path) -> None:
    """A key without a type only holds other keys; a preset says why it sets a value."""
    if path.parent.name not in reference.PRESETS:
        assert not [key for key in reference.documented_keys(path) if not key.kind and key.default]
        if path.parent.name in ("study", "callbacks"):
            assert all(key.kind for key in reference.documented_keys(path))
