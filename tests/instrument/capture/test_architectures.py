"""Every text model that transformers builds tiny: each name that it is offered means what the name says."""

from itertools import product

import pytest
import torch
import transformers
from torch import Tensor

from dissimilarity.capture.enter import enter, enterable_sites
from dissimilarity.capture.forward import first_result
from dissimilarity.capture.hooks import capture
from dissimilarity.capture.sites import site_table
from tests.helpers.tiny_transformers import LAYERS, VOCABULARY, WITHOUT, model_types, tiny_model

torch.set_num_threads(1)

NO_STREAM = {
    "albert": "one block runs several times",
    "cpmant": "reads segments before its tokens",
    "deepseek_v4": "several streams",
    "dory": "its blocks read more than one stream",
    "flaubert": "its layers are not modules",
    "hrm_text": "its blocks run several times",
    "hy_v4": "several streams",
    "longformer": "runs on whole windows",
    "prophetnet": "several streams",
    "reformer": "two streams",
    "squeezebert": "channels before positions",
    "xlm": "its layers are not modules",
}
"""Model types whose blocks have no stream (batch, pos, d), and why."""


@pytest.fixture(scope="module", autouse=True)
def quiet():
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(level)


def test_the_list_of_what_cannot_be_built_is_short():
    types = model_types()
    assert len(types) > 150 and set(WITHOUT) | set(NO_STREAM) <= set(types) and len(WITHOUT) <= len(types) / 10


@pytest.mark.parametrize("model_type", [name for name in model_types() if name not in WITHOUT])
def test_every_name_means_what_it_says(model_type):
    model = tiny_model(model_type)
    table = site_table(model)
    if model_type in NO_STREAM:
        assert not table
        return
    tokens = torch.randint(5, VOCABULARY - 2, (2, 8), generator=torch.Generator().manual_seed(3))
    with capture(model, list(table)) as acts:
        model(tokens)
    prefixes = sorted({site.removesuffix("0.resid_pre") for site in table if site.endswith("blocks.0.resid_pre")})
    assert prefixes
    for prefix in prefixes:
        for layer in range(LAYERS):
            check_block(acts, f"{prefix}{layer}.", acts.get(f"{prefix}{layer + 1}.resid_pre"))
    with torch.no_grad():
        original = first_result(model(tokens))
    sites = enterable_sites(model)
    for site in {site.split(".")[-1]: site for site in sites}.values():  # each kind at the deepest block
        torch.testing.assert_close(first_result(enter(model, site, acts[site], tokens)), original)


def check_block(acts: dict[str, Tensor], block: str, following: Tensor | None) -> None:
    """Check which sites of a block add up to which."""
    pre, post, middle = acts[f"{block}resid_pre"], acts[f"{block}resid_post"], acts.get(f"{block}resid_mid")
    attention, mlp = acts.get(f"{block}attn_out"), acts.get(f"{block}mlp_out")
    assert following is None or torch.equal(post, following)
    if middle is not None:
        assert attention is None or is_sum(middle, pre + attention), f"{block}resid_mid"
        assert mlp is None or is_sum(post, middle + mlp), f"{block}resid_post"
    elif attention is not None or mlp is not None:
        assert is_sum(post, pre + sum(part for part in (attention, mlp) if part is not None)), f"{block}resid_post"


def is_sum(stream: Tensor, total: Tensor) -> bool:
    """Return whether a stream is a sum, or a norm of it: a scale and a bias per feature on the normalized sum."""
    error = 1e-4 * float(stream.abs().max())
    if torch.allclose(stream, total, rtol=0, atol=error):
        return True
    for centered, eps in product((total, total - total.mean(-1, keepdim=True)), (1e-12, 1e-6, 1e-5)):
        normed = (centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()).flatten(0, 1).double().T
        columns = torch.stack([normed, torch.ones_like(normed)], -1)
        right = stream.flatten(0, 1).double().T.unsqueeze(-1)
        fit = columns @ torch.linalg.lstsq(columns, right).solution
        if float((fit - right).abs().max()) < error:
            return True
    return False
