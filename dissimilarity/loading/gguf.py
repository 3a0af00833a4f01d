"""Load GGUF files (the format of llama.cpp) through Hugging Face transformers, which converts them to float32."""

import io
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from dissimilarity.loading.config import TENSOR_BYTES, check_config, check_folder
from dissimilarity.loading.untrusted import panics_as_errors, read_tokenizer
from dissimilarity.tables.files import replacing, sha256_of

NEEDED = ("transformers", "gguf", "accelerate")


def load_file(path: Path, uri: str) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """Return the model of a GGUF file, its tokenizer, the file of the tokenizer, and the sha256 of the GGUF file.

    The tokenizer is the tokenizer.json beside the file. Without one, it is the tokenizer inside the file, which is
    saved in the cache by hash.

    Args:
        path: the GGUF file.
        uri: the reference as the user wrote it, for messages.

    Raises:
        ValueError: a package is missing, the file is broken, or transformers does not support its architecture.

    Example:
        >>> load_file(Path("missing.gguf"), "hf:missing.gguf")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ValueError: reference 'hf:missing.gguf': cannot load .../missing.gguf: ...
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"reference {uri!r} needs {', '.join(missing)}: pip install -e '.[hf]'")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    place: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        check_folder(path.parent)
        config = AutoConfig.from_pretrained(path.parent, **place)
        check_config(config.to_dict(), path.stat().st_size // TENSOR_BYTES)
        # disable_progress_bar does not affect the bar of the conversion, which is tqdm's own.
        with redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(path.parent, config=config, dtype=torch.float32, **place)
    except Exception as error:  # transformers and gguf raise many kinds
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"reference {uri!r}: cannot load {path.absolute()}: {text}") from error
    digest = sha256_of(path)
    beside = path.resolve().parent / "tokenizer.json"
    file = beside if beside.is_file() else _tokenizer_inside(path, digest)
    if file is None:
        return model, None, None, digest
    return model, read_tokenizer(file), file, digest


def _tokenizer_inside(path: Path, digest: str) -> Path | None:
    """Return the tokenizer of a GGUF file as a tokenizer.json in the hub's cache; None if it has no readable one."""
    from huggingface_hub.constants import HF_HOME
    from transformers import AutoTokenizer

    file = Path(HF_HOME) / "gguf-tokenizers" / digest / "tokenizer.json"
    if file.is_file():
        return file
    try:
        with panics_as_errors("its tokenizer is broken"):
            tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
            text = tokenizer.backend_tokenizer.to_str()
    except Exception:  # a model without a tokenizer is still a reference
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")
    return file
