# %% [markdown]
# # Reading a run
#
# `python train.py` leaves a folder `runs/NAME`. This notebook reads what is in it: when each layer left its initial
# state, whether two moments or two layers really differ, and which figures say so. Nothing is trained again.
#
# `python examples/reading_a_run.py`, or open it in Jupyter (with jupytext) or VS Code.

# %%
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from dissimilarity import changes, curves_figure, difference, heatmap_figure, read_curves, select

# %% [markdown]
# ## Which run
#
# If there is no such run, a small one is trained, in less than a minute.

# %%
RUN = Path("runs/solu-w64-d2-s0")
OUT = Path("results/reading_a_run")

# %%
if not RUN.exists():
    around = [Path.cwd(), *Path.cwd().parents]
    program = next((folder / "train.py" for folder in around if (folder / "train.py").exists()), None)
    if program is None:
        raise SystemExit(f"there is no run {RUN}; give the folder of one, or start in a clone of the repository")
    subprocess.run(
        [sys.executable, program, "experiment=tiny", f"name={RUN.name}", f"runs_dir={RUN.parent}"], check=True
    )

# %% [markdown]
# ## The table behind everything
#
# One row per step, reference, measure and pair of layers. `value` is the measure as the literature has it,
# `dissimilarity` is 0 for the same and larger for more different, `stderr` its standard error over the text, `null`
# the value of models that read different text. It is a table of pyarrow; `curves.to_pandas()` where pandas is
# installed.

# %%
curves = read_curves(RUN)
steps, references, measures = (curves[name].unique().to_pylist() for name in ("step", "reference", "measure"))
print(f"{curves.num_rows} rows: {len(steps)} steps up to {steps[-1]}, references {references}, measures {measures}")

# %%
summary = json.loads((RUN / "summary.json").read_text()) if (RUN / "summary.json").exists() else {}
print({key: summary[key] for key in ("status", "val_loss") if key in summary})

# %% [markdown]
# ## Curves
#
# Columns are references, rows are measures, lines are layers. Training steps are on a logarithmic axis, because most
# happens at the start. Bands are 95% intervals: other text of this kind, not other seeds. A ring marks the first
# step at which a layer has moved beyond noise.

# %%
curves_figure(curves, model=RUN.name)

# %% [markdown]
# ## All pairs of layers
#
# Some steps compare every layer of the model with every layer of the reference. Dark means the same; a diagonal says
# that layers correspond. `scale="data"` spreads the colors over the values, where differences are small.

# %%
reference = references[0]
maps = heatmap_figure(select(curves, reference=reference), RUN.name, scale="data")
maps

# %% [markdown]
# ## Did the last layer really change between two moments?
#
# Both moments were measured on the same text, so what varies in one varies in the other, and their bands say too
# little. `difference` takes the error of the difference itself, which is several times smaller.

# %%
halfway = steps[len(steps) // 2]
curve = select(curves, reference=reference, measure=measures[0])
gaps = difference(select(curve, step=steps[-1]), select(curve, step=halfway))
for row in gaps.to_pylist():
    change = f"{row['difference']:+.4f} ± {row['stderr']:.4f} (p = {row['p']:.2g})"
    print(f"{row['site_a']}, step {steps[-1]} minus step {halfway}: {change}")
gaps

# %% [markdown]
# ## When did each layer leave its first state?
#
# Every tick against the first one of its curve; `p_holm` is adjusted for the number of ticks.

# %%
moves = changes(select(curves, reference=reference, measure=measures[0]))
for site in moves["site_a"].unique().to_pylist():
    significant = [row["step"] for row in select(moves, site_a=site).to_pylist() if row["p_holm"] < 0.05]
    print(f"{site}: {f'from step {min(significant)} on' if significant else 'never'}")

# %% [markdown]
# ## Your own figure
#
# Every drawing function takes the axes of a figure of yours: here a curve beside a heat map of the last step.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
one = select(curves, reference=reference, measure=measures[0])
curves_figure(one, ax=left)
left.legend(fontsize=6)
heatmap_figure(select(one, step=steps[-1]), RUN.name, ax=right)
OUT.mkdir(parents=True, exist_ok=True)
figure.savefig(OUT / "mine.pdf")
plt.close(figure)
