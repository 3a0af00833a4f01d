"""The benchmarks: each can be called by name with the options that the command line knows."""

from importlib import import_module
from inspect import Parameter, signature

import pytest

from benchmarks.__main__ import OPTIONS, names


@pytest.mark.parametrize("name", names())
def test_every_benchmark_runs_with_the_options_of_the_command_line(name):
    parameters = signature(import_module(f"benchmarks.{name}").run).parameters
    assert parameters.keys() <= OPTIONS.keys()
    assert all(parameter.default is not Parameter.empty for parameter in parameters.values())
