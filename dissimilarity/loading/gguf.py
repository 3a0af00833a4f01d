"""Load GGUF files (the format of llama.cpp) through Hugging Face transformers, which converts them to float32."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from dissimilarity.loading.config import TENSOR_BYTES, check_config, check_folder, check_gguf_file
from dissimilarity.loading.untrusted import panics_as_errors, read_tokenizer
from dissimilarity.loading.weights import check_loaded
from dissimilarity.tables.files import replacing, sha256_of

BLOCK = re.compile(r"blk\.(\d+)\.")


def load_file(path: Path, uri: str) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """Return the model of a GGUF file, its tokenizer, the file of the tokenizer, and the sha256 of the GGUF file.

    The tokenizer is the tokenizer.json beside the file. Without one, it is the tokenizer inside the file, which is
    saved in the cache by hash.

    Args:
        path: the GGUF file.
        uri: the reference as the user wrote it, for messages.

    Raises:
        ValueError: a package is missing, the file is broken, or transformers does not support its architecture.

    Examples:
        >>> load_file(Path("missing.gguf"), "hf:missing.gguf")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ValueError: reference 'hf:missing.gguf': cannot load .../missing.gguf: ...
    """
    check_gguf_file(path, uri)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        check_folder(path.parent)
        # disable_progress_bar does not affect the bar of the conversion, which is tqdm's own.
        with redirect_stderr(io.StringIO()), _in_lower_case(path) as file:
            place: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
            config = AutoConfig.from_pretrained(file.parent, **place)
            check_config(config.to_dict(), path.stat().st_size // TENSOR_BYTES)
            kind: Any = AutoModelForCausalLM
            model, report = kind.from_pretrained(
                file.parent,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # reported, and rejected below
                output_loading_info=True,
                **place,
            )
            report["unexpected_keys"] = _without_a_place(file, model.config.num_hidden_layers)
    except Exception as error:  # transformers and gguf raise many kinds
        text = " ".join(str(error).split())[:600]
        raise ValueError(f"reference {uri!r}: cannot load {path.absolute()}: {text}") from error
    check_loaded(report, model, f"reference {uri!r}: {path.absolute()}", "metadata")
    digest = sha256_of(path)
    beside = path.resolve().parent / "tokenizer.json"
    file = beside if beside.is_file() else _tokenizer_inside(path, digest)
    if file is None:
        return model, None, None, digest
    return model, read_tokenizer(file), file, digest


@contextmanager
def _in_lower_case(path: Path) -> Iterator[Path]:
    """Yield a path of the file that ends in .gguf, by which transformers knows it."""
    if path.suffix == ".gguf":
        yield path
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / "model.gguf"
        link.symlink_to(path.absolute())
        yield link


def _without_a_place(path: Path, layers: int) -> list[str]:
    """Return the tensors of blocks beyond the last, which transformers leaves out without a word."""
    from gguf import GGUFReader

    names = [str(tensor.name) for tensor in GGUFReader(path).tensors]
    return [name for name in names if (block := BLOCK.match(name)) and int(block[1]) >= layers]


def _tokenizer_inside(path: Path, digest: str) -> Path | None:
    """Return the tokenizer of a GGUF file as a tokenizer.json in the hub's cache; None if it has no readable one."""
    from huggingface_hub.constants import HF_HOME
    from transformers import AutoTokenizer

    file = Path(HF_HOME) / "gguf-tokenizers" / digest / "tokenizer.json"
    if file.is_file():
        return file
    try:
        with panics_as_errors("its tokenizer is broken"):
            with _in_lower_case(path) as lower:
                tokenizer: Any = AutoTokenizer.from_pretrained(lower.parent, gguf_file=lower.name)
            text = tokenizer.backend_tokenizer.to_str()
    except Exception:  # a model without a tokenizer is still a reference
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")
    return file
