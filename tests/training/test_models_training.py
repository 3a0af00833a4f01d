"""The LightningModule: recipe, metrics, logs, checkpoints, and that it learns."""

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers.logger import DummyLogger
from torch import nn
from torch.utils.data import DataLoader

from models.language_model import LanguageModel, cross_entropy
from models.recipe import lr_factor, parameter_groups
from models.transformer import PRODUCTS_UP_TO, causal_attention
from tests.helpers.families import family_config, optim_config

D_VOCAB, N_CTX = 61, 16


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def language_model(family="solu", width=64, depth=1, init_seed=0) -> Any:
    net = family_config(family, width, depth, n_ctx=N_CTX)
    return LanguageModel(net, optim_config(), D_VOCAB, bytes_per_token=3.5, unigram_loss=4.0, init_seed=init_seed)


class Table(DummyLogger):
    """A logger that collects what Lightning logs."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append({"step": step, **metrics})


def trainer(steps=10, logger=None, **changes):
    options: dict[str, Any] = dict(
        max_steps=steps,
        accelerator="cpu",
        logger=logger or False,
        log_every_n_steps=5,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return pl.Trainer(**{**options, **changes})


def batches(count=10, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(D_VOCAB, (count * size, N_CTX + 1), generator=generator)


def loader(tokens, size=4):
    return DataLoader(tokens, batch_size=size)


@pytest.mark.parametrize("family", ["solu", "attn_only", "pythia"])
def test_matrices_decay_and_vectors_and_embeddings_do_not(family):
    net = language_model(family, width=128).net
    recipe: dict[str, Any] = dict(lr_matrices=2e-3, base_width=256, lr_other=1e-3, weight_decay=0.05)
    groups = {group["name"]: group for group in parameter_groups(net, d_model=128, **recipe)}
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    matrices = {names[id(p)] for p in groups["matrices"]["params"]}
    other = {names[id(p)] for p in groups["other"]["params"]}
    assert matrices | other == set(names.values()) and not matrices & other
    kinds = ("W_QKV.weight", "W_O.weight", "W_in.weight", "W_out.weight", "unembed.weight")
    assert matrices == {name for name in names.values() if name.endswith(kinds) and name != "embed.weight"}
    assert (groups["matrices"]["lr"], groups["matrices"]["weight_decay"]) == (4e-3, 0.05)
    assert (groups["other"]["lr"], groups["other"]["weight_decay"]) == (1e-3, 0.0)


def test_an_untrained_head_has_its_own_learning_rate():
    net = language_model("solu", width=128).net
    recipe: dict[str, Any] = dict(lr_matrices=2e-3, base_width=256, lr_other=1e-3, weight_decay=0.05)
    groups = parameter_groups(net, d_model=128, **recipe, head=net.unembed, lr_head=1e-2)
    of_head = {id(parameter) for parameter in net.unembed.parameters()}
    (head,) = [group for group in groups if group["name"] == "head"]
    assert {id(p) for p in head["params"]} == of_head and (head["lr"], head["weight_decay"]) == (1e-2, 0.0)
    rest = [id(p) for group in groups if group is not head for p in group["params"]]
    assert not of_head & set(rest) and len(rest) + len(of_head) == len(list(net.parameters()))


@pytest.mark.parametrize(("width", "lr"), [(64, 8e-3), (256, 2e-3), (512, 1e-3)])
def test_the_learning_rate_of_matrices_falls_with_width(width, lr):
    module = language_model("attn_only", width=width)
    module.trainer = trainer(steps=100)
    optimizer = module.configure_optimizers()["optimizer"]
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([lr, 1e-3])
    assert optimizer.defaults["betas"] == (0.9, 0.99) and optimizer.defaults["fused"]


def test_learning_rate_over_time():
    factors = [lr_factor(step, 100, warmup=0.1, final=0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert lr_factor(500, 100, warmup=0.1, final=0.1) == pytest.approx(0.1)
    assert lr_factor(0, 1, warmup=0.0, final=0.1) == 1.0


def test_training_without_a_number_of_steps_is_rejected():
    module = language_model()
    module.trainer = trainer(steps=-1, max_epochs=-1)
    with pytest.raises(ValueError, match=r"trainer\.max_steps"):
        module.configure_optimizers()


def test_what_is_logged_in_training():
    table, module, data = Table(), language_model(), batches(10)
    first = cross_entropy(module(data[:4, :-1]), data[:4, 1:]).item()
    trainer(10, table).fit(module, loader(data))
    rows = [row for row in table.rows if "train/loss" in row]
    assert [row["step"] for row in rows] == [4, 9]
    lr = 2e-3 / (64 / 256)
    warm = lr_factor(4, 10, 0.05, 0.1), lr_factor(9, 10, 0.05, 0.1)
    assert [row["train/lr"] for row in rows] == pytest.approx([lr * factor for factor in warm])
    assert first == pytest.approx(math.log(D_VOCAB), abs=0.2)


def test_logged_loss_is_that_of_the_step():
    table, module, data = Table(), language_model(), batches(5)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, *_):
            seen.append(outputs["loss"].item())

    trainer(5, table, callbacks=[Watch()]).fit(module, loader(data))
    assert table.rows[0]["train/loss"] == pytest.approx(seen[4])


def test_validation_metrics_against_a_plain_computation():
    module, data = language_model(), batches(5, size=3)
    (logged,) = trainer().validate(module, loader(data, size=4), verbose=False)
    with torch.no_grad():
        log_p = F.log_softmax(module(data[:, :-1]).double(), -1)
    nats = -log_p.gather(-1, data[:, 1:, None]).mean().item()
    assert logged["val/loss"] == pytest.approx(nats, rel=1e-5)
    assert logged["val/bits_per_byte"] == pytest.approx(nats / math.log(2) / 3.5, rel=1e-5)
    assert logged["val/perplexity"] == pytest.approx(math.exp(nats), rel=1e-4)
    assert logged["val/accuracy"] == pytest.approx((log_p.argmax(-1) == data[:, 1:]).double().mean().item())
    (again,) = trainer().validate(module, loader(data[:4]), verbose=False)
    assert again["val/loss"] != pytest.approx(nats, rel=1e-6)


@pytest.mark.parametrize("family", ["solu", "gelu", "pythia"])
def test_a_small_batch_is_memorized(family):
    module, data = language_model(family), batches(1)
    trainer(60).fit(module, loader(data.repeat(60, 1)))
    assert cross_entropy(module(data[:, :-1]), data[:, 1:]) < 0.5


def test_bfloat16_forward_is_finite_and_its_loss_float32():
    module, data = language_model(), batches(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = module(data[:, :-1])
        loss = cross_entropy(logits, data[:, 1:])
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32 and loss.isfinite()
    exact = cross_entropy(module(data[:, :-1]), data[:, 1:])
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("n_pos", [1, 5, PRODUCTS_UP_TO, PRODUCTS_UP_TO + 1])
@pytest.mark.parametrize("sharpness", [1, 3])
def test_attention_and_its_gradient_are_those_of_the_formula(dtype, n_pos, sharpness):
    """Also where few positions get all the weight, and scores that are rounded to bf16 would cost a digit."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, n_pos, 3, 8, generator=generator).to(dtype).transpose(1, 2) for _ in range(4)]
    parts[:2] = [sharpness * part for part in parts[:2]]
    given = [part.clone().requires_grad_() for part in parts[:3]]
    exact = [part.double().requires_grad_() for part in parts[:3]]
    scores = torch.einsum("bhtk,bhsk->bhts", exact[0], exact[1]) / math.sqrt(8)
    weights = scores.masked_fill(torch.ones(n_pos, n_pos).triu(1).bool(), -math.inf).softmax(-1)
    truth = torch.einsum("bhts,bhsk->bhtk", weights, exact[2])
    truth.backward(parts[3].double())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = causal_attention(given[0], given[1], given[2])
    output.backward(parts[3])
    bound = 7e-3 if dtype == torch.bfloat16 else 1e-5
    found = [output, *(part.grad for part in given)]
    for value, true in zip(found, [truth, *(part.grad for part in exact)], strict=True):
        assert value is not None and true is not None and value.dtype == dtype
        assert (value - true).norm() <= bound * max(true.norm(), parts[3].norm())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_under_a_fused_optimizer(precision):
    norms = []

    class Norms(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.extend([torch.nn.utils.get_total_norm(gradients).item()] if gradients else [])

    module = language_model()
    fit = trainer(3, precision=precision, gradient_clip_val=1e-3, callbacks=[Norms()])
    fit.fit(module, loader(batches()))
    assert fit.optimizers[0].param_groups[0]["fused"]
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2) and len(norms) >= 2


def test_the_loss_is_float32_outside_autocast_too():
    logits, targets = torch.randn(2, 3, D_VOCAB).bfloat16(), torch.randint(D_VOCAB, (2, 3))
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(cross_entropy(logits.double(), targets).item(), rel=1e-5)


def test_checkpoints_hold_plain_values_under_clean_names(tmp_path):
    module, path = language_model(), tmp_path / "last.ckpt"
    fit = trainer(2)
    module.net.compile()  # as train.py does; the names must not change, whatever runs
    with torch.compiler.set_stance("force_eager"):
        fit.fit(module, loader(batches(2)))
    fit.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"net.{name}" for name, _ in language_model().net.named_parameters()}
    assert checkpoint["hyper_parameters"]["net"]["d_model"] == 64 and checkpoint["format"] == 1
    resumed = language_model(init_seed=5)
    trainer(4).fit(resumed, loader(batches(4)), ckpt_path=path, weights_only=True)
    assert resumed.trainer.global_step == 4


def test_any_module_from_tokens_to_logits_trains():
    net = {"_target_": f"{__name__}.Bigram", "family": "bigram"}
    module = LanguageModel(net, optim_config(), D_VOCAB, bytes_per_token=3.5, unigram_loss=4.0)
    data = batches(1)
    before = cross_entropy(module(data[:, :-1]), data[:, 1:])
    trainer(30).fit(module, loader(data.repeat(30, 1)))
    assert cross_entropy(module(data[:, :-1]), data[:, 1:]) < before - 0.1


class Bigram(nn.Module):
    def __init__(self, d_vocab):
        super().__init__()
        self.table = nn.Embedding(d_vocab, 8)
        self.out = nn.Linear(8, d_vocab)

    def forward(self, tokens):
        return self.out(self.table(tokens))
