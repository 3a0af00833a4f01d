"""Packed text: a source tokenized once into two flat memory maps, train and validation, in a content-keyed cache."""

import hashlib
import heapq
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Int64, Integer
from tokenizers import Tokenizer

from data.sources import Source
from data.tokenizers import TokenizerSpec, boundary_id, vocabulary_size
from dissimilarity.loading.texts import prepare
from dissimilarity.loading.untrusted import panics_as_errors
from dissimilarity.tables.files import replacing, sha256_of
from dissimilarity.tables.seal import KEY, UNSEALED, check, seal

log = logging.getLogger(__name__)

FORMAT = 1
SPLITS = ("train", "val")
# Characters tokenized at a time: enough documents to keep all cores busy, and little memory compared to a model.
BATCH_CHARS = 1 << 21


@dataclass(frozen=True)
class Packed:
    """A packed corpus.

    Attributes:
        folder: Its folder.
        meta: The content of meta.json: counts, bytes_per_token, unigram_loss (nats per token), d_vocab, boundary_id and
            the fingerprint, a sha256 over the tokenizer and all tokens.
        tokens: A read-only memory map of token ids per split, documents one after the other.
        tokenizer: The tokenizer of the tokens.
    """

    folder: Path
    meta: dict
    tokens: Mapping[str, Integer[np.ndarray, " tokens"]]
    tokenizer: Tokenizer

    def __reduce__(self) -> tuple:
        """Pickle the name of the folder, so that a spawned process maps the files instead of receiving all tokens."""
        return _open, (self.folder,)


def pack(source: Source, tokenizer: TokenizerSpec, cache_dir: str, val_fraction: float | None) -> Packed:
    """Open the packed corpus, making it first if it is not in `cache_dir`.

    A document belongs to the validation split if the hash of its text is below `val_fraction`. Its split therefore does
    not depend on its position, and copies of a text stay together. Each document is its boundary token followed by its
    text. The corpus enters the cache by one rename, under a lock: processes that start together make it once, and one
    that dies leaves nothing that looks complete. A damaged corpus is packed again.

    Args:
        source: The source of documents.
        tokenizer: The specification of the tokenizer, trained on documents of the training split only.
        cache_dir: Folder of all packed corpora.
        val_fraction: Share of documents in the validation split, strictly between 0 and 1; None = there is no such
            split, and all documents are in `train`.

    Raises:
        ValueError: If val_fraction is out of range, or a split has no text.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ValueError(f"expected 0 < data.val_fraction < 1, found {val_fraction}")
    recipe = {
        "format": FORMAT,
        "source": source.fingerprint(),
        "tokenizer": tokenizer.fingerprint(),
        "val_fraction": val_fraction,
    }
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:20]
    folder = Path(cache_dir, key)
    if packed := _whole(folder):
        return packed
    folder.parent.mkdir(parents=True, exist_ok=True)
    with cache_lock(Path(f"{folder}.lock")):
        if packed := _whole(folder):
            return packed
        if folder.exists():
            shutil.rmtree(folder)
        _make(folder, recipe, source, tokenizer)
    return _open(folder)


def cache_lock(path: Path) -> FileLock:
    """Return the lock of an entry of the cache.

    Raises:
        OSError: If its file cannot be made, which FileLock would try forever.
    """
    path.touch()
    return FileLock(path)


def _whole(folder: Path) -> Packed | None:
    """Return the packed corpus in a folder after checking every byte; None if it is missing or damaged."""
    if not folder.exists():
        return None
    try:
        packed = _open(folder)
        check((folder / "meta.json").read_bytes(), folder / "meta.json")
        if packed.meta["fingerprint"] != _fingerprint(folder):
            raise ValueError(f"{folder} is damaged: its tokens or its tokenizer have changed since they were written")
    except ValueError as error:
        log.warning("packing the data again, because %s", error)
        return None
    return packed


def in_validation(text: str, val_fraction: float | None) -> bool:
    """Return whether a document is in the validation split, which depends on its text alone."""
    return val_fraction is not None and _unit_hashes(text)[0] < val_fraction


def _unit_hashes(text: str) -> tuple[float, float]:
    """Return two independent numbers in [0, 1): one decides the split, the other the sample for the tokenizer."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48, int.from_bytes(digest[6:12], "big") / 2**48


def _documents(source: Source) -> Iterator[str]:
    for _, text in source.documents():
        if text:
            # JSON can hold half a surrogate pair, which no tokenizer accepts.
            yield text.encode(errors="replace").decode()


def _sample(source: Source, val_fraction: float | None, sample_bytes: int) -> Iterator[str]:
    """Yield the training documents with the smallest hashes, up to sample_bytes: an even sample in one pass.

    It is a generator, so nothing is read for a tokenizer that needs no training.
    """
    heap: list[tuple[float, str]] = []
    size = 0
    for text in _documents(source):
        if in_validation(text, val_fraction):
            continue
        rank = _unit_hashes(text)[1]
        heapq.heappush(heap, (-rank, text))
        size += len(text.encode())
        while size > sample_bytes and len(heap) > 1:
            size -= len(heapq.heappop(heap)[1].encode())
    for _, text in sorted(heap):
        yield text


def _make(folder: Path, recipe: dict, source: Source, spec: TokenizerSpec) -> None:
    log.info("packing the data into %s (once)", folder)
    with replacing(folder) as part:
        part.mkdir()
        _write(part, recipe, source, spec)


@panics_as_errors("the tokenizer is broken")
def _write(folder: Path, recipe: dict, source: Source, spec: TokenizerSpec) -> None:
    val_fraction = recipe["val_fraction"]
    tokenizer = prepare(spec.build(_sample(source, val_fraction, spec.sample_bytes)))
    boundary = boundary_id(tokenizer)
    d_vocab = vocabulary_size(tokenizer)
    dtype = np.dtype("<u2" if d_vocab <= 1 << 16 else "<u4")
    description = tokenizer.to_str()
    (folder / "tokenizer.json").write_text(description, encoding="utf-8", newline="")

    # A document that contains the text of a special token must not end there.
    tokenizer.encode_special_tokens = True
    counts = {split: np.zeros(d_vocab, dtype=np.int64) for split in SPLITS}
    sizes = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    streams = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    try:
        for texts in _batches(_documents(source)):
            ids_by_split: dict[str, list[int]] = {split: [] for split in SPLITS}
            for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
                split = "val" if in_validation(text, val_fraction) else "train"
                ids_by_split[split].append(boundary)
                ids_by_split[split].extend(encoding.ids)
                sizes[split]["documents"] += 1
                sizes[split]["bytes"] += len(text.encode())
            for split, ids in ids_by_split.items():
                tokens = np.asarray(ids, dtype=dtype)
                counts[split] += np.bincount(tokens, minlength=d_vocab)
                sizes[split]["tokens"] += len(tokens)
                streams[split].write(tokens.data)
    finally:
        for stream in streams.values():
            stream.close()

    documents = {split: sizes[split]["documents"] for split in SPLITS}
    if val_fraction is None and not documents["train"]:
        raise ValueError("expected documents, found none: give more text")
    if val_fraction is not None and not all(documents.values()):
        raise ValueError(
            f"expected documents in both splits, found {documents['train']} for training and {documents['val']} for "
            f"validation at data.val_fraction={val_fraction}: give more documents, or type data.val_fraction=0.3"
        )
    meta = recipe | sizes | {KEY: UNSEALED}
    meta |= {"dtype": dtype.str, "d_vocab": d_vocab, "boundary_id": boundary, "fingerprint": _fingerprint(folder)}
    held_out = "train" if val_fraction is None else "val"
    meta["bytes_per_token"] = sizes[held_out]["bytes"] / sizes[held_out]["tokens"]
    meta["unigram_loss"] = unigram_loss(counts["train"], counts[held_out])
    (folder / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8", newline="")
    seal(folder / "meta.json")


def _fingerprint(folder: Path) -> str:
    """Return the sha256 of the tokenizer and of the hashes of both splits."""
    state = hashlib.sha256((folder / "tokenizer.json").read_bytes())
    for split in SPLITS:
        state.update(bytes.fromhex(sha256_of(folder / f"{split}.bin")))
    return state.hexdigest()


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch, length = [], 0
    for text in documents:
        batch.append(text)
        length += len(text)
        if length >= BATCH_CHARS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def unigram_loss(train_counts: Int64[np.ndarray, " d_vocab"], val_counts: Int64[np.ndarray, " d_vocab"]) -> float:
    """Return the loss (nats per token) on the validation split of the training split's token frequencies.

    Frequencies are smoothed by one: p(t) = (count(t) + 1) / (tokens + d_vocab). A model that ignores context reaches
    this loss, so a trained model must be below it.
    """
    total = int(train_counts.sum()) + len(train_counts)
    nats = math.log(total) - np.log(train_counts + 1.0)
    return float((val_counts * nats).sum() / val_counts.sum())


def _open(folder: Path) -> Packed:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        dtype = np.dtype(meta["dtype"])
        for split in SPLITS:
            expected, actual = meta[split]["tokens"] * dtype.itemsize, (folder / f"{split}.bin").stat().st_size
            if expected != actual:
                raise ValueError(f"{split}.bin has {actual} bytes, expected {expected}")
        tokens = {
            split: np.memmap(folder / f"{split}.bin", dtype=dtype, mode="r")
            if meta[split]["tokens"]
            else np.empty(0, dtype)  # an empty file cannot be mapped
            for split in SPLITS
        }
        tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    # The tokenizers library raises bare Exception for a file that it cannot parse.
    except Exception as error:
        raise ValueError(
            f"the packed data in {folder} is damaged ({error}); the same command packs it again"
        ) from error
    return Packed(folder, meta, tokens, tokenizer)
