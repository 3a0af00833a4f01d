"""Files of the Hugging Face hub: downloaded once, pinned to a commit; without a network the answer comes at once."""

import os
from pathlib import Path

SECONDS = 10
"""How long the hub may take to answer the first request."""


def is_offline() -> bool:
    """Whether it is known that there is no way to the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")


def download(model: str, revision: str | None, patterns: list[str], uri: str, instead: str) -> tuple[Path, str]:
    """The folder with the files of `model` that match `patterns`, and the full hash of its commit.

    Offline, what was downloaded before is taken as it is.

    Args:
        model: ORG/MODEL.
        revision: branch, tag or commit; None for the main branch.
        patterns: of file names.
        uri: what was asked for, for the message.
        instead: what to give where the hub cannot be reached, for the message.

    Raises:
        ValueError: no such model or revision, or no way to the hub.
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
            f"reference {uri!r}: {model} was not downloaded before, and there is no way to the hub"
            f"{' (HF_HUB_OFFLINE is set)' if is_offline() else ''}; {instead}"
        ) from error
    except HfHubHTTPError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"reference {uri!r}: the hub does not give {model} ({first}); {instead}") from error
    except Exception as error:  # without a network: any of three libraries' errors
        raise ValueError(
            f"reference {uri!r}: no way to the hub for {model} ({type(error).__name__}); {instead}"
        ) from error
