# %% [markdown]
# # How different are two language models, and where?
#
# Two checkpoints, a model and its fine-tuned form, two seeds, two sizes: this notebook compares any two models of
# Hugging Face that read the same tokens, layer by layer, with an error bar on every number. It opens in Jupyter (with
# jupytext), in VS Code, and runs as it is: `python examples/two_models.py`.
#
# Needs `pip install ".[hf]"`.

# %%
import copy
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from dissimilarity import CKA, MutualKNN, Procrustes, compare, difference, select, text_figure

# %% [markdown]
# ## What to compare
#
# `A` and `B` are folders or names on the hub. Without them, two small models with random weights are made on the
# spot: B is a copy of A whose third block has other weights, so the right answer is known.

# %%
A, B = "", ""  # such as "EleutherAI/pythia-70m" and "my-finetuned-pythia"
TEXT = ""  # a text file; without one, the manual of Python
SEQUENCES, LENGTH = 64, 64  # how much of it: 64 pieces of 64 tokens
OUT = Path("results/two_models")

# %%
if A and B:
    model_a, model_b = (AutoModelForCausalLM.from_pretrained(name).eval() for name in (A, B))
    tokenizer = AutoTokenizer.from_pretrained(A)
    encode, decode = tokenizer.encode, tokenizer.decode
else:
    torch.manual_seed(0)
    sizes = {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 256, "n_positions": LENGTH}
    model_a = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    model_b = copy.deepcopy(model_a)
    model_b.transformer.h[2].apply(model_b._init_weights)  # the third of four blocks
    for weight in model_b.transformer.h[2].parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    encode, decode = lambda text: list(text.encode()), lambda tokens: bytes(tokens).decode(errors="replace")

text = Path(TEXT).read_text() if TEXT else "\n".join(topics.values())
tokens = torch.tensor(encode(text[: 20 * SEQUENCES * LENGTH])[: SEQUENCES * LENGTH]).reshape(SEQUENCES, LENGTH)

# %% [markdown]
# ## Every layer of A with every layer of B
#
# Both models read the same text; every measure compares what they make of it. The result is a table that shows
# itself.

# %%
table = compare(model_a, model_b, tokens, measures=[CKA(), Procrustes(), MutualKNN()], influence=True)
table

# %% [markdown]
# **How to read it.** Rows of a heat map are the blocks of A, columns those of B; dark means the same.
#
# - *value*: CKA and mutual kNN are 1 for equal representations, the Procrustes angle is 0.
# - *low, high*: the 95% interval. Other text of this kind would give a value in it. It says nothing about other
#   seeds.
# - *null*: the value if A and B read *different* text. Two models share positions and frequent tokens, so it is not
#   0. A cell is hatched where the interval holds the null: there the models have no more in common than that.
# - *calibrated*: 1 for identical models, 0 at the null. It can be compared between layers and measures.

# %%
for row in table.rows():
    if row["measure"] == "cka":
        print(
            f"{row['site_a']:<22} CKA {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], null {row['null']:.3f}"
        )

# %% [markdown]
# ## Is the last layer really more different than the first?
#
# Two layers read the same text, so their values rise and fall together, and two error bars say too little.
# `difference` knows the influence of each sequence on both, and gives the error of the difference itself: `p` is the
# probability of a difference as large if there were none.

# %%
sites = [row["site_a"] for row in table.rows() if row["measure"] == "cka"]
first, last = (select(table, site_a=site, site_b=site) for site in (sites[0], sites[-1]))
gaps = difference(last, first)
gaps

# %%
for row in gaps.to_pylist():
    print(
        f"{row['measure']}: last minus first layer {row['difference']:+.3f} ± {row['stderr']:.3f}, p = {row['p']:.2g}"
    )

# %% [markdown]
# ## On which text do they differ?
#
# The influence of a token says how the dissimilarity would change if the token counted more. Red tokens make the
# models look more different, blue ones more alike.

# %%
row = select(table, measure="cka", site_a=sites[-1], site_b=sites[-1]).to_pylist()[0]
texts = text_figure(row, tokens, decode, top=3, title=f"1 - CKA at {sites[-1]}")
texts

# %% [markdown]
# ## For a paper
#
# A column is 3.25 inches wide; letters have 8 points there, and fonts are embedded. `figure(ax=...)` draws into a
# figure of your own. The table is LaTeX (`\usepackage{booktabs}`), CSV or a pandas DataFrame.

# %%
OUT.mkdir(parents=True, exist_ok=True)
cka = select(table, measure="cka")
cka.figure(figsize=(3.25, 2.6)).savefig(OUT / "cka.pdf")
texts.savefig(OUT / "text.pdf")
cka.to_csv(OUT / "cka.csv")
print(cka.to_latex(OUT / "cka.tex"))
