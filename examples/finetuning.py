# %% [markdown]
# # What does fine-tuning change, at which layer, and when?
#
# A callback for the Trainer of Hugging Face follows a model while it is fine-tuned. Here adapters (LoRA) are trained
# on a small model. At steps 0, 1, 2, 4, ... and then regularly, the callback compares every layer with the model
# without its adapters (`base`), and with its own recent past (`previous`). It changes nothing about the training.
#
# `python examples/finetuning.py`, or open it in Jupyter (with jupytext) or VS Code. Needs `pip install ".[hf]"`.

# %%
from pathlib import Path
from pydoc_data.topics import topics

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from dissimilarity import CKA, Procrustes, changes, curves_figure, read_curves, select
from dissimilarity.huggingface import DissimilarityCallback

# %% [markdown]
# ## Model, text and adapters
#
# `MODEL` is a folder or a name on the hub. Without it, a small model with random weights is made on the spot, which
# reads bytes.

# %%
MODEL = ""  # such as "EleutherAI/pythia-70m"; then TARGETS are its layers to adapt, such as ["query_key_value"]
TARGETS = ["c_attn"]
TEXT = ""  # a text file; without one, the manual of Python
STEPS, EVERY = 60, 10  # steps of the training, and between two measurements
OUT = Path("results/finetuning")

# %%
if MODEL:
    base, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    encode = tokenizer.encode
else:
    torch.manual_seed(0)
    sizes = {"n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 256, "n_positions": 64}
    base = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    encode = lambda text: list(text.encode())  # noqa: E731

text = Path(TEXT).read_text() if TEXT else "\n".join(topics.values())
tokens = torch.tensor(encode(text[:200_000]))
sequences = tokens[: len(tokens) // 64 * 64].reshape(-1, 64)
probe, training = sequences[:64], sequences[64:]  # models are compared on text that is not trained on

lora = LoraConfig(r=8, target_modules=TARGETS, task_type="CAUSAL_LM", fan_in_fan_out=not MODEL)
model = get_peft_model(base, lora)

# %% [markdown]
# ## Train, and measure on the way
#
# The callback is one argument of the Trainer. Its numbers also go where the Trainer reports (`report_to="wandb"`),
# with heat maps to slide through; the tables are in `OUT`.

# %%
callback = DissimilarityCallback(
    probe, references=["base", "previous"], measures=[CKA(), Procrustes()], every=EVERY, heatmap_every=EVERY, folder=OUT
)
arguments = TrainingArguments(
    output_dir=str(OUT / "trainer"),
    max_steps=STEPS,
    per_device_train_batch_size=8,
    learning_rate=1e-2,
    report_to=[],
    save_strategy="no",
    logging_strategy="no",
    disable_tqdm=True,
)
data = [{"input_ids": sequence, "labels": sequence} for sequence in training]
trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])
trainer.train()

# %% [markdown]
# ## The curves
#
# One line per block. Bands are 95% intervals over the probe text: other text of this kind, not other seeds. The
# dashed line is the null, the value of models that read different text: as far apart as two readings can be. Against
# `base`, curves rise as the adapters take effect; against `previous`, they show how fast the model moves at each
# time.

# %%
curves = read_curves(OUT)
curves_figure(curves, model="LoRA")

# %% [markdown]
# ## Which layers moved, and by how much?
#
# `changes` subtracts the first measurement of each curve from the later ones, with an error for the difference
# itself. `p_holm` counts that many steps were looked at: below 0.05, the layer has moved.

# %%
moved = select(changes(select(curves, reference="base")), step=STEPS, measure="cka")
for row in moved.to_pylist():
    rise = f"{row['difference']:.3f} ± {row['stderr']:.3f}"
    print(f"{row['site_a']}: 1 - CKA to the base rose by {rise} (p {row['p_holm']:.2g})")

# %% [markdown]
# ## A figure for a paper
#
# One panel as wide as a column; letters have 8 points, fonts are embedded.

# %%
panel = curves_figure(select(curves, reference="base", measure="cka"), figsize=(3.25, 3.0))
panel.savefig(OUT / "base.pdf")
panel
