"""GGUF files (llama.cpp's form) as references, through Hugging Face transformers, which turns them into float32."""

import io
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from dissimilarity.loading.untrusted import panics_as_errors, read_tokenizer
from dissimilarity.tables.files import replacing, sha256_of

NEEDED = ("transformers", "gguf", "accelerate")


def load_file(path: Path, uri: str) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """The model of a file, its tokenizer and the file of that, and the sha256 of the file.

    The tokenizer is the tokenizer.json beside the file; without one, that inside it, put into the cache by hash.

    Raises:
        ValueError: a package is missing, or the file is broken or of an architecture that transformers does not read.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"reference {uri!r} needs {', '.join(missing)}: pip install -e '.[hf]'")
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        # disable_progress_bar does not reach the bar of the conversion, which is tqdm's own.
        with redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
            )
    except Exception as error:  # whatever transformers and gguf raise
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"reference {uri!r}: cannot load {path.absolute()}: {text}") from error
    digest = sha256_of(path)
    beside = path.resolve().parent / "tokenizer.json"
    found = beside if beside.is_file() else _tokenizer_inside(path, digest)
    if found is None:
        return model, None, None, digest
    return model, read_tokenizer(found), found, digest


def _tokenizer_inside(path: Path, digest: str) -> Path | None:
    """The tokenizer of a GGUF file as a tokenizer.json in the hub's cache; None where it has none that can be read."""
    from huggingface_hub.constants import HF_HOME
    from transformers import AutoTokenizer

    place = Path(HF_HOME) / "gguf-tokenizers" / digest / "tokenizer.json"
    if place.is_file():
        return place
    try:
        with panics_as_errors("its tokenizer is broken"):
            tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
            text = tokenizer.backend_tokenizer.to_str()
    except Exception:  # a model without a tokenizer is a reference all the same
        return None
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as part:
        part.write_text(text, encoding="utf-8")
    return place
