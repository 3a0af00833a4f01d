"""Download files of the Hugging Face hub once, pinned to a commit. Without a network, fail at once."""

import os
from pathlib import Path

SECONDS = 10
"""Timeout of the first request to the hub."""


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE is set."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")


def downloaded(model: str) -> Path | None:
    """Return the folder of a model that was downloaded before; None without one. The network is not used."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except Exception:  # no such model, or no name of one: errors of two libraries
        return None


def download(model: str, revision: str | None, patterns: list[str], uri: str, instead: str) -> tuple[Path, str]:
    """Return the folder with the files of a model that match the patterns, and the full hash of its commit.

    Offline, files that were downloaded before are used as they are.

    Args:
        model: ORG/MODEL.
        revision: branch, tag or commit; None for the main branch.
        patterns: globs of file names.
        uri: the reference as the user wrote it, for messages.
        instead: what to type if the hub cannot be reached, for messages.

    Raises:
        ValueError: no such model or revision, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    try:
        if is_offline():
            folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
            return folder, folder.name
        commit = HfApi().model_info(model, revision=revision, timeout=SECONDS).sha
        return Path(snapshot_download(model, revision=commit, allow_patterns=patterns)), str(commit)
    except RevisionNotFoundError as error:
        raise ValueError(f"reference {uri!r}: {model} has no revision {revision!r} on the hub") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"reference {uri!r}: {model} was not downloaded before, and the hub cannot be reached"
            f"{' (HF_HUB_OFFLINE is set)' if is_offline() else ''}; {instead}"
        ) from error
    except HfHubHTTPError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"reference {uri!r}: the hub refused {model} ({first}); {instead}") from error
    except Exception as error:  # without a network: errors of three libraries
        raise ValueError(
            f"reference {uri!r}: cannot reach the hub for {model} ({type(error).__name__}); {instead}"
        ) from error
