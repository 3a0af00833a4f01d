"""Rules for the keys of the root, by command; launch/cli/arguments.py holds those for the arguments of parts."""

from launch.cli.arguments import ALERTS, CONTROL, FIGURES, FRACTION, GROUPS, NAME, READ_IN, SITES, TEXT
from launch.cli.rules import (
    FLAG,
    FOLDER,
    NOT_NEGATIVE,
    PART,
    PART_OF_ALL,
    PARTS,
    POSITIVE,
    SEED,
    SHARE,
    Rule,
    either,
    items,
    one_of,
    or_null,
    text,
    whole,
)

COMPARED = {
    **{f"control.{key}": rule for key, rule in CONTROL.items()},
    **{f"figures.{key}": rule for key, rule in FIGURES.items()},
    "align.unit": one_of("word", "token"),
    "align.take": one_of("last", "mean"),
    "include_padding": FLAG,
    "overwrite": FLAG,
    "data_seed": SEED,
    "runs_dir": FOLDER,
    "name": or_null(TEXT),
}

ROOTS: dict[str, dict[str, Rule]] = {
    "train": {
        "width": whole(1, 10**6),
        "depth": whole(1, 1000),
        "seed": SEED,
        "init_seed": SEED,
        "init_from": or_null(text("a reference such as runs/NAME")),
        "compile": either(one_of("auto"), FLAG),
        "references": items(text("init, previous, untrained, runs/NAME or another reference"), "[init,runs/a]"),
        "reference_groups": GROUPS,
        "alerts": ALERTS,
        "sites": SITES,
        "schedule.every": whole(1),
        "schedule.heatmap_every": whole(1),
        "probe.sequences": whole(2),
        "probe.length": whole(1),
        "probe.split": one_of("train", "val"),
        "probe.precision": READ_IN,
        "track.budget": or_null(PART_OF_ALL),
        "checkpoints.keep": one_of("all", "every", "last"),
        "optimized_metric": text("the name of a number, such as val_loss"),
        **COMPARED,
        "task": PART,
        "model": PART,
        "data": PART,
        "trainer": PART,
        "measures": PARTS,
        "measures.*": PART,
        "logger": PARTS,
        "logger.*": PART,
        "callbacks": PARTS,
        "callbacks.*": PART,
        "optim.lr_matrices": NOT_NEGATIVE,
        "optim.lr_other": NOT_NEGATIVE,
        "optim.base_width": whole(1),
        "optim.weight_decay": NOT_NEGATIVE,
        "optim.betas": items(FRACTION, "[0.9,0.99]", minimum=2, maximum=2),
        "optim.eps": POSITIVE,
        "optim.warmup": SHARE,
        "optim.final_lr": SHARE,
    },
    "analyze": {
        "models": either(text("pythia or tl"), items(TEXT, "[runs/a,runs/b]")),
        "size": NAME,
        "sizes": or_null(items(TEXT, "[70m,160m]", minimum=1)),
        "sites": or_null(SITES),
        "device": one_of("auto", "cpu", "gpu", "cuda", "mps"),
        "probe.sequences": or_null(whole(2)),
        "probe.length": or_null(whole(1)),
        "probe.split": or_null(one_of("train", "val")),
        **COMPARED,
        "results_dir": FOLDER,
        "cache_dir": FOLDER,
        "study": PART,
        "data": or_null(PART),
        "measures": Rule(("a set, such as measures=default",), lambda value: isinstance(value, dict) and bool(value)),
        "measures.*": PART,
    },
}

OPTIONAL: dict[str, Rule] = {
    "optim.lr_head": NOT_NEGATIVE,
    "optim.lr_pretrained": NOT_NEGATIVE,
    "optim.lr_scratch": NOT_NEGATIVE,
}
"""Keys that only some choices have."""

REQUIRED = ("max_steps", "accelerator", "devices", "num_nodes", "strategy", "precision", "accumulate_grad_batches")
"""Keys of `trainer` that are read before the trainer is built."""
