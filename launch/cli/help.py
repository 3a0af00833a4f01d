"""The pages that `--help` prints; Hydra would compose a config and copy it many times to print one."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from launch.cli.compose import CONF, compose, groups

TRAIN = """\
Trains a language model, or a classifier of texts, and follows how far its layers are from reference models.

  python train.py model=solu width=512
  python train.py model=gelu width=512 references=[init,runs/solu-w512-d2-s0]
  python train.py -m model=solu,gelu width=64,128,256 seed=0,1,2
  python train.py experiment=tiny
  python train.py -m task=classify data=heuristics init_from=runs/base seed=0,1,2       fine-tunes runs/base

Groups: choose with GROUP=CHOICE

{groups}

Keys, with their defaults: set with KEY=VALUE, nested ones as trainer.max_steps=1000

  width=  depth=                   size of the model
  seed=  init_seed  data_seed     the last two follow seed; set apart, runs can share one and not the other
  name=  overwrite=               the run and its folder runs/NAME; throw a run of that name away and start anew
  init_from=                      model to begin from, its weights, sizes and tokens: runs/NAME, hf:..., tl:..., a file
  compile=                        auto, true or false
  references=                     also runs/NAME, runs/NAME@STEP, path/to/some.ckpt, hf:..., tl:..., wandb:...
  reference_groups=               references that behave alike, {{good:[runs/a],bad:[runs/b]}}: to which does it drift
  sites=                          which points of the forward pass are compared
  schedule.every=  schedule.heatmap_every=
  probe.sequences=  probe.length=  probe.split=  probe.precision=
  include_padding=                false: padding is no sample of any measure; true: it counts as text
  track.budget=                   most of the training time that tracking may take
  data.batch_size=  data.n_ctx=  data.cache_dir=
  trainer.max_steps=  trainer.precision=  trainer.devices=  trainer.strategy=
  logger.wandb.mode=              offline, online or disabled; null: WANDB_MODE, else online with WANDB_API_KEY

The same command again continues an unfinished run and leaves a finished one alone.
Exit codes: 0 done, 2 a mistake in the command, 130 and 143 stopped by a signal and saved, 1 anything else.

  python train.py --cfg job       every key and its value; the files under conf/ say what each means
  python train.py -m ...          a sweep; hydra/launcher=joblib runs its jobs side by side
  python train.py --hydra-help    the flags of Hydra
"""

ANALYZE = """\
Answers a question over finished runs, and leaves a table, a summary and figures in results/.

  python analyze.py study=compare models=[runs/solu-w512-d2-s0,runs/gelu-w512-d2-s0]
  python analyze.py study=compare models=[runs/a@0,runs/a@64,runs/a] measures=all name=a
  python analyze.py study=compare models=[mine.safetensors,theirs.safetensors]
  python analyze.py study=asymmetry size=small        trains its models first
  python analyze.py study=asymmetry models=tl data=c4_code       the published solu and gelu models
  python analyze.py study=generalization study.case=both    fine-tunes its models first; or models=[runs/a,runs/b,...]
  python analyze.py study=export models=[runs/a] study.to=huggingface

Groups: choose with GROUP=CHOICE

{groups}

Keys, with their defaults: set with KEY=VALUE, nested ones as study.groups=8

  models=                         runs/NAME, runs/NAME@STEP, some.ckpt, hf:..., tl:..., wandb:...; or .npy, .safetensors
  sites=                          points of the forward pass; null: blocks.*.resid_post, all that was saved
  size=                           which models asymmetry trains where none are given: small, medium or paper
  study.pairs=  study.groups=     all or matched (equal relative depth); jackknife groups of sequences
  probe.sequences=  probe.length=
  probe.split=                    the text on which models run; null: as the first run was tracked on
  data=                           other text than the first run's, in its tokens: data=stdlib
  name=  overwrite=               the folder results/NAME; replace results that another command made
  device=                         auto, cpu, gpu or mps
  runs_dir=  results_dir=

The same command again replaces its results.
Exit codes: 0 done, 2 a mistake in the command, 130 stopped, 1 anything else.

  python analyze.py --cfg job     every key and its value; the files under conf/ say what each means
  python analyze.py --hydra-help  the flags of Hydra
"""

PAGES = {"train": TRAIN, "analyze": ANALYZE}


def page(extra: list[Path], config_name: str = "train") -> str:
    """The help page of a command, with the choices of its groups under conf/ and under the folders `extra`."""
    shown = groups(config_name)
    choices: dict[str, set[str]] = {}
    for folder in (CONF, *extra):
        for path in folder.glob("*/**/*.yaml"):
            group = path.parent.relative_to(folder).as_posix()
            if group.split("/")[0] in shown and path.stem != "base":
                choices.setdefault(group, set()).add(path.stem)
    lines = [f"  {group:<16} {', '.join(sorted(names))}" for group, names in sorted(choices.items())]
    text = PAGES[config_name].format(groups="\n".join(lines))
    head, keys, tail = re.split(r"(?<=study.groups=8\n\n)|(?<=max_steps=1000\n\n)|(?<=\n)(?=\nThe same command)", text)
    return head + _with_defaults(keys, compose([], config_name)) + tail


def _with_defaults(keys: str, cfg: DictConfig) -> str:
    """Each `key=` with its default after it, and the meanings in one column."""
    lines = []
    for line in keys.splitlines():
        names, _, meaning = line.strip().partition("   ")
        shown = re.sub(r"([\w.]+)=", lambda match: f"{match[1]}={_short(OmegaConf.select(cfg, match[1]))}", names)
        lines.append(f"  {shown:<31} {meaning.strip()}".rstrip())
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    """A value as it is typed on the command line."""
    if OmegaConf.is_list(value):
        return f"[{','.join(_short(entry) for entry in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
