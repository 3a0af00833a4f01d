"""A value with a comma says what to type: a list, or a sweep."""

import pytest
from hydra.errors import HydraException

from launch.cli.compose import compose
from launch.cli.messages import explain


@pytest.mark.parametrize("override", ["references=a,b", "width=64,128"])
def test_value_with_a_comma(override):
    with pytest.raises(HydraException) as raised:
        compose([override])
    key, value = override.split("=")
    message = explain(raised.value, [override])
    assert message.startswith(f"{override}: one run has one value; type '{key}=[{value}]' for a list, or -m {override}")
