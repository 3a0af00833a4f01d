"""The pages that `--help` prints; Hydra would compose a config and copy it many times to print one."""

import textwrap
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from launch.cli.compose import CONF, compose, groups
from launch.cli.reference import Key, choices, documented_keys

TRAIN = """\
Train a language model, or a classifier of texts, and track how far its layers are from reference models.

  python train.py model=solu width=512
  python train.py model=gelu width=512 references=[init,runs/solu-w512-d2-s0]
  python train.py -m model=solu,gelu width=64,128,256 seed=0,1,2
  python train.py experiment=tiny
  python train.py -m task=classify data=heuristics init_from=runs/base seed=0,1,2       fine-tune runs/base

Groups: choose with GROUP=CHOICE

{groups}

Keys, with their defaults: set with KEY=VALUE, nested ones as trainer.max_steps=1000

{keys}

The same command again continues an unfinished run and leaves a finished one alone.
Exit codes: 0 done, 2 a mistake in the command, 130 and 143 stopped by a signal and saved, 1 anything else.

  docs/configuration.md           all keys; --cfg job prints them with the values that a command gives them
  python train.py -m ...          run a sweep; hydra/launcher=joblib runs its jobs side by side
  python train.py --hydra-help    the flags of Hydra
"""

ANALYZE = """\
Answer a question about finished runs, and write a table, a summary and figures to results/.

  python analyze.py study=compare models=[runs/solu-w512-d2-s0,runs/gelu-w512-d2-s0]
  python analyze.py study=compare models=[runs/a@0,runs/a@64,runs/a] measures=all name=a
  python analyze.py study=compare models=[mine.safetensors,theirs.safetensors]
  python analyze.py study=asymmetry size=small        trains its models first
  python analyze.py study=asymmetry models=tl data=c4_code       the published solu and gelu models
  python analyze.py study=generalization study.case=both    fine-tunes its models first; or models=[runs/a,runs/b,...]
  python analyze.py study=export models=[runs/a] study.to=huggingface

Groups: choose with GROUP=CHOICE

{groups}

Keys, with their defaults: set with KEY=VALUE, nested ones as probe.length=32

{keys}

The same command again replaces its results.
Exit codes: 0 done, 2 a mistake in the command, 130 stopped, 1 anything else.

  docs/configuration.md           all keys; --cfg job prints them with the values that a command gives them
  python analyze.py --hydra-help  the flags of Hydra
"""

PAGES = {"train": TRAIN, "analyze": ANALYZE}
COMMON_KEYS = {
    "train": {
        "data/base": ("data.n_ctx", "data.batch_size", "data.cache_dir"),
        "trainer/auto": ("trainer.max_steps", "trainer.precision", "trainer.devices", "trainer.strategy"),
        "logger/wandb": ("logger.wandb.mode",),
    },
    "analyze": {"study/compare": ()},
}
"""Keys of groups that are shown beside those of the root, by their file in conf/; none named: all of the file."""
COLUMN, WIDTH = 36, 120


def page(extra: list[Path], config_name: str = "train") -> str:
    """Return the help page of a command, with the choices of its groups under conf/ and under the folders `extra`."""
    shown = groups(config_name)
    folders = {path.parent.relative_to(folder) for folder in (CONF, *extra) for path in folder.glob("*/**/*.yaml")}
    names = sorted(folder.as_posix() for folder in folders if folder.parts[0] in shown)
    lines = [f"  {name:<16} {', '.join(options)}" for name in names if (options := choices(name, (CONF, *extra)))]
    cfg = compose([], config_name)
    keys = [_line(key, cfg) for key in _shown_keys(config_name)]
    return PAGES[config_name].format(groups="\n".join(lines), keys="\n".join(keys))


def _shown_keys(config_name: str) -> list[Key]:
    keys = [key for key in documented_keys(CONF / f"{config_name}.yaml") if key.kind]
    for name, common in COMMON_KEYS[config_name].items():
        documented = documented_keys(CONF / f"{name}.yaml", f"{name.partition('/')[0]}.")
        keys += [key for key in documented if not common or key.name in common]
    return keys


def _line(key: Key, cfg: DictConfig) -> str:
    """Return `key=default` and the meaning in a column beside it."""
    typed = f"  {key.name}={_short(OmegaConf.select(cfg, key.name))}"
    meaning = f"{key.kind}: {key.meaning}" if key.kind else key.meaning
    beside, *below = textwrap.wrap(meaning, WIDTH - COLUMN)
    return "\n".join([f"{typed:<{COLUMN - 1}} {beside}", *(" " * COLUMN + line for line in below)])


def _short(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if OmegaConf.is_list(value):
        return f"[{','.join(_short(entry) for entry in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
