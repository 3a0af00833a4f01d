"""Rules for the arguments of every part of the config, by the _target_ that takes them.

`*` stands for any name or any place in a list. A _target_ that is not listed is a user's own and checks its arguments.
"""

from launch.cli.rules import (
    ANYTHING,
    FLAG,
    FOLDER,
    INNER,
    NOT_NEGATIVE,
    PART,
    PART_OF_ALL,
    PARTS,
    POSITIVE,
    SEED,
    SHARE,
    SIZE,
    Rule,
    either,
    elsewhere,
    items,
    later,
    matching,
    names,
    number,
    one_of,
    or_null,
    text,
    whole,
)
from settings import PRECISIONS

NAME, TEXT = text("a name"), text("a text that is not empty")
FRACTION = number("of 0 or more and below 1", lambda value: 0 <= value < 1)
SITES = either(text("a name such as blocks.*.resid_post"), items(TEXT, "[blocks.*.resid_post]", minimum=1))
TRAINED_IN = one_of(*PRECISIONS)
READ_IN = or_null(one_of("32-true", "bf16-mixed", "16-mixed"))
LIMIT = either(whole(0), number("from 0.0 to 1.0", lambda value: isinstance(value, float) and 0 <= value <= 1))
OVERRIDES = items(TEXT, "[trainer.max_steps=400]")
SEEDS = items(SEED, "[0,1,2]", minimum=1, distinct=True)
SIZES = items(SIZE, "[64,128]", minimum=1, distinct=True)
DURATION = matching(r"(?=.*[1-9])\d+:\d\d:\d\d:\d\d", "days, hours, minutes and seconds, such as 00:08:00:00")
GROUPS = or_null(
    names(items(TEXT, "[runs/a]", minimum=1), "names with lists of models, such as {good:[runs/a],bad:[runs/b]}")
)
REFERENCES = items(text("init, previous, untrained, runs/NAME or another reference"), "[init,runs/a]")
ALERT_KEYS = {"nearest": ("level", "stop"), "move": ("level", "stop", "by"), "collapse": ("level", "stop", "below")}
ALERTS = items(
    either(
        one_of(*ALERT_KEYS),
        Rule(
            ("a mapping such as {rule:collapse,below:0.3} of rule, level, stop, and by (move) or below (collapse)",),
            lambda value: (
                isinstance(value, dict)
                and value.keys() <= {"rule", *ALERT_KEYS.get(str(value.get("rule")), ())}
                and value.get("rule") in ALERT_KEYS
            ),
        ),
    ),
    "[move,collapse]",
)
ALERT = {"alerts.*.level": INNER, "alerts.*.stop": FLAG, "alerts.*.by": FRACTION, "alerts.*.below": INNER}
COLUMNS = or_null(names(items(NAME, "[label]", minimum=1), "files with lists of columns, such as {hans: [gold_label]}"))
LABELS = or_null(names(either(TEXT, whole(0), FLAG), "labels with labels, such as {neutral: non-entailment}"))

VALUES_BY_NAME = names(ANYTHING, "values by name")

FIGURES = {
    "formats": items(one_of("png", "pdf", "svg"), "[png,pdf]", minimum=1, distinct=True),
    "scale": or_null(one_of("data")),
    "dark": one_of("same", "different"),
}
CONTROL = {
    "skip_first": whole(0),
    "drop_top_norm": whole(0),
    "every": whole(1),
    "normalize": one_of("none", "layer_norm", "unit_norm"),
}
TRAINER = {
    "accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "devices": either(one_of("auto"), whole(-1, -1), whole(1), items(whole(0), "[0,1]", minimum=1)),
    "num_nodes": whole(1),
    "strategy": either(text("auto, ddp or another strategy of Lightning"), PART),
    "precision": either(one_of("auto"), TRAINED_IN),
    "max_steps": SIZE,
    "max_epochs": or_null(either(whole(-1, -1), whole(1))),
    "accumulate_grad_batches": whole(1),
    "gradient_clip_val": or_null(NOT_NEGATIVE),
    "val_check_interval": whole(1),
    "check_val_every_n_epoch": or_null(whole(1)),
    "limit_val_batches": LIMIT,
    "num_sanity_val_steps": whole(-1),
    "log_every_n_steps": whole(0),
    "use_distributed_sampler": FLAG,
    "enable_checkpointing": FLAG,
    "enable_progress_bar": FLAG,
    "enable_model_summary": FLAG,
    "profiler": or_null(one_of("simple", "advanced", "pytorch")),
    "overfit_batches": LIMIT,
    "detect_anomaly": FLAG,
    # not in conf/; a + on the command line adds them
    "min_steps": or_null(whole(0)),
    "min_epochs": or_null(whole(0)),
    "fast_dev_run": either(FLAG, whole(0)),
    **dict.fromkeys(("limit_train_batches", "limit_test_batches", "limit_predict_batches"), LIMIT),
    **dict.fromkeys(("benchmark", "inference_mode", "sync_batchnorm", "barebones"), FLAG),
    "max_time": or_null(DURATION),
    "deterministic": either(FLAG, one_of("warn")),
    "reload_dataloaders_every_n_epochs": whole(0),
    "gradient_clip_algorithm": one_of("norm", "value"),
    "callbacks": elsewhere("callbacks=default or +callbacks.mine._target_=..."),
    "logger": elsewhere("logger=wandb or +logger.mine._target_=..."),
    "default_root_dir": elsewhere("runs_dir=..."),
}

TRANSFORMER = {
    "family": matching(r"[\w.-]+", "a name of letters, digits, _ . and -"),
    "d_model": SIZE,
    "n_layers": SIZE,
    "d_head": SIZE,
    "n_ctx": SIZE,
    "d_vocab": later(SIZE),
    "activation": or_null(PART),
    "d_mlp": or_null(SIZE),
    "mlp_norm": FLAG,
    "parallel": FLAG,
    "rotary_share": or_null(PART_OF_ALL),
    "unembed_bias": FLAG,
}

CALLBACKS = {
    "console.Console": {"label": TEXT, "every_seconds": NOT_NEGATIVE},
    "validation.FinalValidation": {},
    "interrupts.StopSignals": {},
    "checkpoints.ScheduledCheckpoints": {"folder": FOLDER, "every": whole(1), "keep": one_of("all", "every", "last")},
    "wandb_run.WandbRun": {
        "name": TEXT,
        "folder": FOLDER,
        "project": matching(r"[^/\\#?%:\s][^/\\#?%:]{0,127}", "a name of up to 128 characters without / \\ # ? % :"),
        "entity": or_null(NAME),
        "group": or_null(NAME),
        "tags": items(matching(r".{1,64}", "a text of 1 to 64 characters"), "[first,small]"),
        "mode": or_null(one_of("offline", "online", "shared", "disabled")),
        "finish_timeout": POSITIVE,
        "console": FLAG,
        "log_model": either(FLAG, one_of("all")),
    },
}

TRACKERS = {
    "tracker.RunTracker": {
        "n_units": or_null(whole(2)),
        "nulls": whole(1),
        "every": whole(1),
        "heatmap_every": whole(1),
        "budget": or_null(PART_OF_ALL),
        "pool": one_of("none", "mean", "first", "last"),
        "precision": READ_IN,
        "sites": SITES,
        "folder": FOLDER,
        "reference_groups": GROUPS,
        "alerts": ALERTS,
        **ALERT,
        "references": REFERENCES,
        "measures": PARTS,
        **dict.fromkeys(("control", "figures"), VALUES_BY_NAME),
        **{f"control.{key}": rule for key, rule in CONTROL.items()},
        **{f"figures.{key}": rule for key, rule in FIGURES.items()},
    },
    "stitching.RunStitching": {
        "sequences": whole(14),
        "every": whole(1),
        "task_at": items(whole(0), "[100,400]"),
        "task_steps": whole(1),
        "kind": one_of("identity", "scale_shift", "orthogonal", "affine", "affine_ln"),
        "formats": FIGURES["formats"],
        "budget": or_null(PART_OF_ALL),
        "sites": SITES,
        "folder": FOLDER,
    },
}

DRAWN = {"counterexamples": SHARE, "seed": SEED, "held_out_seed": SEED}
DATA = {
    "module.TextDataModule": {
        "source": PART,
        "tokenizer": PART,
        "n_ctx": whole(1, 10**7),
        "batch_size": SIZE,
        "seed": SEED,
        "cache_dir": FOLDER,
        "val_fraction": INNER,
        "val_sequences": SIZE,
    },
    "text_classification.TextClassificationDataModule": {
        "source": PART,
        "tokenizer": PART,
        "n_ctx": whole(4, 10**7),
        "batch_size": SIZE,
        "seed": SEED,
        "labels": LABELS,
        "merge": LABELS,
        "val_sequences": SIZE,
    },
    "tokenizers.BytePairs": {"vocab_size": whole(257, 10**7)},
    "tokenizers.TokenizerFile": {"path": text("the path of a tokenizer.json")},
    "tokenizers.HubTokenizer": {"name": text("organization/name"), "revision": NAME},
    "sources.files.Files": {
        "paths": items(text("a file, a folder or a pattern"), "[notes.txt,books/]", minimum=1),
        "field": NAME,
        "document_chars": SIZE,
        "cache_dir": FOLDER,
    },
    "sources.hub.Hub": {
        "name": text("organization/name"),
        "config": or_null(NAME),
        "split": NAME,
        "text": NAME,
        "revision": or_null(NAME),
        "max_documents": or_null(whole(1)),
    },
    "sources.mix.Mix": {"sources": items(PART, "[{_target_: data.sources.sotu.Sotu}]", minimum=1)},
    "sources.sentences.Sentences": {"examples": PART},
    "sources.sotu.Sotu": {},
    "sources.stdlib.Stdlib": {},
    "examples.heuristics.Heuristics": {**dict.fromkeys(("train", "val", "ood"), whole(2)), **DRAWN},
    "examples.question_formation.QuestionFormation": {**dict.fromkeys(("train", "val", "ood"), whole(5)), **DRAWN},
    "examples.mnli_hans.MnliHans": {
        "mnli": text("organization/name"),
        "hans": text("organization/name"),
        "revision": or_null(NAME),
        "max_examples": or_null(whole(1)),
    },
    "examples.pairs_file.PairsFile": {
        "files": names(text("the path of a file"), "splits with files, such as {train: my.tsv}"),
        "text": NAME,
        "pair": or_null(NAME),
        "label": NAME,
        "subcase": or_null(NAME),
        "by": COLUMNS,
        "val_fraction": INNER,
    },
}

DEBIASED, SAMPLED = {"debiased": FLAG}, {"max_samples": whole(2), "seed": SEED}
UNITS = {"units": one_of("sequence", "sample")}
KIND, CROSSFIT = {"kind": one_of("angular", "squared")}, {"crossfit": FLAG}
MEASURES = {
    "angular_cka.AngularCKA": {**DEBIASED, **UNITS},
    "bures.Bures": CROSSFIT,
    "cca.CCA": {"reduction": one_of("mean", "mean_square", "r2"), **CROSSFIT},
    "cka.CKA": {**DEBIASED, **UNITS},
    "disagreement.Disagreement": SAMPLED,
    "distance_correlation.DistanceCorrelation": {**DEBIASED, **SAMPLED, **UNITS},
    "gulp.GULP": {"ridge": POSITIVE},
    "jaccard_knn.JaccardKNN": {"k": whole(1), **SAMPLED, "own_sequence": FLAG},
    "jsd.JSD": SAMPLED,
    "kl.KL": SAMPLED,
    "linear_regression.LinearRegression": CROSSFIT,
    "minibatch_cka.MinibatchCKA": {
        "reduction": one_of("ratio_of_means", "mean_of_ratios"),
        "batch": whole(4),
        **SAMPLED,
        **UNITS,
    },
    "mutual_knn.MutualKNN": {"k": whole(1), **SAMPLED, "own_sequence": FLAG},
    "permutation_procrustes.PermutationProcrustes": KIND,
    "procrustes.Procrustes": {**KIND, **CROSSFIT},
    "pwcca.PWCCA": CROSSFIT,
    "rbf_cka.RBFCKA": {**DEBIASED, "bandwidth": POSITIVE, **SAMPLED, **UNITS},
    "rsa.RSA": {"rdm": one_of("correlation", "sqeuclidean"), "compare": one_of("spearman", "pearson"), **SAMPLED},
    "svcca.SVCCA": {"variance": INNER, **CROSSFIT},
}

CRITERIA = ("paper_loss_stitched", "paper_penalty", "task_penalty", "task_excess", "direct_penalty", "direct_excess")
LAYER = text("all, or a site such as blocks.3.resid_post")
TEXT_OF_STUDY = {"sequences": whole(2), "length": whole(1), "n_units": or_null(whole(2)), "family": NAME}
STUDIES = {
    "compare.study.compare_models": {
        "pairs": one_of("all", "matched"),
        "n_units": or_null(whole(2)),
        "nulls": whole(1),
        "channels": or_null(one_of("first", "last")),
        "influence": FLAG,
    },
    "dynamics.study.dynamics": {
        **TEXT_OF_STUDY,
        "checkpoints": or_null(whole(3)),
        "primary_measure": NAME,
        "sizes.*.width": SIZE,
        "sizes.*.depth": SIZE,
        "sizes.*.seeds": SEEDS,
        "sizes.*.train": OVERRIDES,
    },
    "scaling.study.scaling": {
        **TEXT_OF_STUDY,
        "block_by_block": FLAG,
        "controlled": or_null(names(ANYTHING, "keys of control with values, such as {skip_first: 1}")),
        **{f"controlled.{key}": rule for key, rule in CONTROL.items()},
        "primary_measure": NAME,
        "primary_layer": one_of("all", "first", "middle", "last"),
        "sizes.*.shapes": items(items(SIZE, "[64,2]", minimum=2, maximum=2), "[[64,2],[64,4]]", minimum=1),
        "sizes.*.seeds": SEEDS,
        "sizes.*.train": OVERRIDES,
    },
    "asymmetry.study.asymmetry": {
        "families": items(NAME, "[solu,gelu]", minimum=2, maximum=2, distinct=True),
        "others": items(NAME, "[relu]"),
        "checkpoints": whole(1),
        "fit_sequences": whole(2),
        "sequences": whole(2),
        "length": whole(1),
        "stitch_steps": or_null(whole(1)),
        "primary_models": one_of("independent", "sibling"),
        "primary_measure": one_of(*CRITERIA),
        "primary_layer": LAYER,
        "sizes.*.widths": SIZES,
        "sizes.*.depths": SIZES,
        "sizes.*.seeds": SEEDS,
        "sizes.*.narrow": SIZE,
        "sizes.*.stitch_steps": SIZE,
        "sizes.*.train": OVERRIDES,
    },
    "curves.study.curves": {},
    "report.study.report": {},
    "export.study.export": {"to": one_of("huggingface", "transformer_lens", "safetensors")},
    "generalization.study.generalization": {
        "family": NAME,
        "case": one_of("planted", "seeds_only", "both"),
        "reference_groups": GROUPS,
        "ood": or_null(NAME),
        "share": or_null(number("above 0 and up to 0.5", lambda value: 0 < value <= 0.5)),
        "examples": whole(1),
        "sequences": whole(2),
        "stitched": whole(0),
        "pairs": whole(0),
        "points": or_null(whole(3)),
        "checkpoints": whole(0),
        "primary_measure": NAME,
        "primary_layer": LAYER,
        "sizes.*.width": SIZE,
        "sizes.*.depth": SIZE,
        "sizes.*.seeds": SEEDS,
        "sizes.*.init_from": either(TEXT, OVERRIDES),
        "sizes.*.finetune": OVERRIDES,
        "sizes.*.planted": names(OVERRIDES, "kinds with lists of overrides, such as {first: [data.seed=1]}"),
        "sizes.*.seeds_only": OVERRIDES,
    },
}

CLASS_ARGUMENTS: dict[str, dict[str, Rule]] = {
    "pytorch_lightning.Trainer": TRAINER,
    "pytorch_lightning.loggers.TensorBoardLogger": {"save_dir": FOLDER, "name": ANYTHING, "version": ANYTHING},
    "models.transformer.Transformer": TRANSFORMER,
    "models.solu.SoLU": {},
    "torch.nn.GELU": {},
    "torch.nn.ReLU": {},
    "models.language_model.LanguageModel.on": {},
    "models.text_classifier.TextClassifier.on": {"pooling": one_of("last", "first", "mean")},
    **{f"callbacks.{name}": rules for name, rules in (CALLBACKS | TRACKERS).items()},
    **{f"data.{name}": rules for name, rules in DATA.items()},
    **{f"dissimilarity.measures.{name}": rules for name, rules in MEASURES.items()},
    **{f"studies.{name}": rules for name, rules in STUDIES.items()},
}
"""Arguments by the _target_ that takes them."""

HYDRA_ARGUMENTS = {
    "_target_": matching(r"\w+(\.\w+)+", "the dotted path of a class or function"),
    "_partial_": FLAG,
    "_convert_": one_of("none", "partial", "object", "all"),
    "_recursive_": FLAG,
    "_args_": Rule(("a list",), lambda value: isinstance(value, list)),
}
"""Keys that any part with a _target_ may have."""
