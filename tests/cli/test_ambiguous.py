"""Values with commas or of another kind, and keys with dashes: what to type instead."""

import re
from argparse import Namespace

import pytest
from hydra.errors import HydraException

from launch.cli.check import check
from launch.cli.compose import compose
from launch.cli.messages import explain, unknown_flag


@pytest.mark.parametrize(
    ("override", "command", "message"),
    [
        ("references=a,b", "train", r"references=a,b: expected a list; type 'references=\[a,b\]'"),
        ("models=a,b", "analyze", r"models=a,b: expected a list; type 'models=\[a,b\]'"),
        ("width=64,128", "train", "width=64,128: expected one value; for a sweep over several, type -m width=64,128"),
        (
            "optim.lr_matrices=1,2",
            "train",
            ".*: expected one value; .* type -m optim.lr_matrices=1,2",
        ),
        ("model=solu,gelu", "train", "model=solu,gelu: expected one value; .* type -m model=solu,gelu"),
        ("models=a,b", "train", "models=a,b: models is a key of analyze.py; .*"),
        ("widht=1,2", "train", "widht=1,2: there is no key widht; did you mean width.*"),
    ],
)
def test_a_value_with_a_comma(override: str, command: str, message: str) -> None:
    with pytest.raises(HydraException) as raised:
        compose([override], command)
    assert re.match(message, explain(raised.value, [override], command))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("alerts={rule:collapse}", "expected a list such as .*; type 'alerts=\\[{rule:collapse}\\]'$"),
        ("alerts={rule:other}", r"expected a list such as .* below \(collapse\)$"),
        ("references={a:init}", r"expected a list such as \[init,runs/a\], each init, .* another reference$"),
        ("references=init", "expected a list such as .*; type 'references=\\[init\\]'$"),
        ("figures.formats={a:b}", r"expected a list such as \[png,pdf\], each png, pdf or svg, none twice$"),
        ("control=5", r"expected values one by one, such as control.KEY=...; keys are skip_first, drop_top_norm,"),
        ("control=[5]", r"expected values one by one, such as control.KEY=...; keys are skip_first, drop_top_norm,"),
        ("control={a:1}", r"there is no key control.a"),
        ("measures={a:1}", r"there is no key measures.a; did you mean measures.cka\?"),
        ("measures=5", "expected one of all, default, fast, none"),
        ("measures.cka=[5]", r"expected values one by one, such as measures.cka.KEY=...; keys are debiased, units$"),
    ],
)
def test_a_value_of_another_kind(override: str, message: str) -> None:
    with pytest.raises((HydraException, ValueError)) as raised:
        check(Namespace(multirun=False, overrides=[override], config_dir=None))
    assert re.match(re.escape(override) + f": {message}", explain(raised.value, [override]))


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["--width", "64"], "width=64"),
        (["--width=64"], "width=64"),
        (["-m", "--model", "solu"], "model=solu"),
        (["--max-steps", "width=64"], "max_steps=..."),
    ],
)
def test_a_key_with_dashes(arguments: list[str], typed: str) -> None:
    flag = next(argument for argument in arguments if argument.startswith("--"))
    assert f"{flag}: there is no such flag; keys have no dashes: type {typed}," in unknown_flag(flag, arguments)
