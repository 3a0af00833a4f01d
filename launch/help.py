"""The page that `--help` prints; Hydra would compose a config and copy it many times to print one."""

from pathlib import Path

from launch.compose import CONF

PAGE = """\
Trains a language model and follows how far its layers are from reference models.

  python train.py model=solu width=512
  python train.py model=gelu width=512 references=[init,runs/solu-w512-d2-s0]
  python train.py -m model=solu,gelu width=64,128,256 seed=0,1,2
  python train.py experiment=tiny

Groups: choose with GROUP=CHOICE

{groups}

Keys, with their defaults: set with KEY=VALUE, nested ones as trainer.max_steps=1000

  width=128  depth=2              size of the model
  seed=0  init_seed  data_seed    the last two follow seed; set apart, runs can share one and not the other
  name=null  overwrite=false      the run and its folder runs/NAME; throw a run of that name away and start anew
  compile=auto                    auto, true or false
  references=[init,previous]      also runs/NAME, runs/NAME@STEP, path/to/some.ckpt
  sites=blocks.*.resid_post       which points of the forward pass are compared
  schedule.every=50  schedule.heatmap_every=250
  probe.sequences=32  probe.length=64  probe.split=val  probe.precision=null
  track.budget=0.03               most of the training time that tracking may take
  data.batch_size=8  data.n_ctx=128  data.cache_dir=cache
  trainer.max_steps=300  trainer.precision=auto  trainer.devices=1  trainer.strategy=auto
  logger.wandb.mode=null          offline, online or disabled; null: WANDB_MODE, else online with WANDB_API_KEY

The same command again continues an unfinished run and leaves a finished one alone.
Exit codes: 0 done, 2 a mistake in the command, 130 and 143 stopped by a signal and saved, 1 anything else.

  python train.py --cfg job       every key and its value; the files under conf/ say what each means
  python train.py -m ...          a sweep; hydra/launcher=joblib runs its jobs side by side
  python train.py --hydra-help    the flags of Hydra
"""

LEFT_OUT = ("hydra", "measure")


def page(extra: list[Path]) -> str:
    """The help page, with the choices of every group under conf/ and under the folders `extra`."""
    choices: dict[str, set[str]] = {}
    for folder in (CONF, *extra):
        for path in folder.glob("*/**/*.yaml"):
            group = path.parent.relative_to(folder).as_posix()
            if group.split("/")[0] not in LEFT_OUT and path.stem != "base":
                choices.setdefault(group, set()).add(path.stem)
    lines = [f"  {group:<16} {', '.join(sorted(names))}" for group, names in sorted(choices.items())]
    return PAGE.format(groups="\n".join(lines))
