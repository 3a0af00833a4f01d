"""The untrained model as a reference: another start of the architecture, the same whenever training continues."""

from typing import Any

import pytest
import torch
from torch import nn

from dissimilarity import CKA
from dissimilarity.tracking.references import named_references, untrained
from dissimilarity.tracking.tracker import Tracker


class Own(nn.Module):
    """A module with a parameter that no layer can draw again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(4, 4), nn.Parameter(torch.ones(4))


def test_it_has_other_weights_and_does_not_depend_on_those_of_the_model() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.TransformerEncoderLayer(4, 2, 8), nn.LayerNorm(4))
    first = untrained(model)
    for parameter in model.parameters():
        parameter.data += 1
    state = torch.get_rng_state()
    again = untrained(model)
    assert torch.equal(state, torch.get_rng_state()) and not again.training
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b) and not a.requires_grad, name
        assert not torch.equal(a, c), name


def test_a_module_may_say_itself_what_it_is_and_must_where_layers_cannot() -> None:
    with pytest.raises(ValueError, match=r"draws table; give the model a method untrained\(\)"):
        untrained(Own())

    class Said(Own):
        def untrained(self) -> "Own":
            return Own()

    assert isinstance(untrained(Said()), Own)


class Needy(nn.Module):
    """A layer that cannot draw its weights without being told how."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def reset_parameters(self, gain: float) -> None:
        """Draw the weights again."""


class Silent(nn.Linear):
    """A layer that says nothing useful about its untrained form."""

    def untrained(self) -> None:
        """Return nothing, by mistake."""


def test_what_cannot_be_drawn_or_copied_is_named() -> None:
    with pytest.raises(ValueError, match=r"no reset_parameters\(\) without arguments draws 0.weight;"):
        untrained(nn.Sequential(Needy()))
    with pytest.raises(ValueError, match=r"expected Silent.untrained\(\) to return a module, found None"):
        untrained(Silent(2, 2))
    layer = nn.Linear(2, 2)
    layer.output = layer(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"Linear cannot be copied \(Only Tensors created explicitly"):
        untrained(layer)


class Gated(nn.Linear):
    """A layer with a parameter that the `reset_parameters` of its class does not know."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.gate = nn.Parameter(torch.ones(4))


class Whole(nn.Module):
    """A module that draws the parameters of its part, which cannot do so itself."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Own()

    def reset_parameters(self) -> None:
        """Draw them again."""
        nn.init.uniform_(self.part.table)


def quantized() -> nn.Module:
    """Return a layer whose weights are whole numbers."""
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    return layer


LEFT = {
    "gate": Gated,
    "weight_orig": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "parametrizations.weight.original": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_parameter_that_its_layer_forgets_is_named(name: str) -> None:
    """The trained gate, or the numbers behind a normalized weight, would make it a copy of the model in training."""
    with pytest.raises(ValueError, match=rf"draws {name}"):
        untrained(LEFT[name]())


def test_weights_that_are_no_numbers_to_draw_are_named() -> None:
    with pytest.raises(ValueError, match=r"reset_parameters\(\) of 0 failed .* give the model a method untrained"):
        untrained(nn.Sequential(quantized()))


def test_a_parameter_may_be_drawn_by_the_module_around_its_own() -> None:
    model = Whole()
    fresh = untrained(model)
    assert isinstance(fresh, Whole) and not bool((fresh.part.table == model.part.table).any())


def test_statistics_are_reset_and_constants_stay() -> None:
    model = nn.BatchNorm1d(4)
    model.register_buffer("positions", torch.arange(4.0))
    model(torch.randn(8, 4) + 5)
    buffers = {name: buffer.tolist() for name, buffer in untrained(model).named_buffers()}
    assert buffers["running_mean"] == [0] * 4 and buffers["running_var"] == [1] * 4
    assert buffers["positions"] == [0, 1, 2, 3]


def test_names_tell_it_from_the_trained_one() -> None:
    uris = ["runs/a", "untrained:runs/a", "untrained"]
    assert list(named_references(uris)) == ["a", "untrained-a", "untrained"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nulls": 0}, "nulls: expected a whole number of rearrangements, 1 or more, found 0"),
        ({"nulls": 9}, "nulls=9: 4 sequences can be put into 6 different circles; pass at most nulls=6"),
        (
            {"probe": torch.zeros(3, 8, dtype=torch.long)},
            "cka needs 4 sequences, and the probe set has 3: pass more, or",
        ),
    ],
)
def test_a_tracker_refuses_what_would_fail_at_every_tick(options: dict[str, Any], message: str, tmp_path: Any) -> None:
    probe = options.pop("probe", torch.zeros(4, 8, dtype=torch.long))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Tracker(["init"], [CKA()], probe, tmp_path, **options)
    assert message in str(caught.value)
