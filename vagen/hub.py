"""Publishing an exported model on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of whatever client it uses
)

import vagen


class HubError(ValueError):
    """A model that cannot be published; the message says why."""


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Upload a model folder as one commit, making the repository if need be; returns the commit's address.

    Logs in with the token of ``hf auth login`` or ``HF_TOKEN``, at ``HF_ENDPOINT`` where that is set.

    Raises:
        HubError: no repository can have this name, nobody is logged in, or the Hub refuses or cannot be reached.
    """
    api = HfApi(library_name="vagen-cloze", library_version=vagen.__version__)
    message = f"Model exported by vagen {vagen.__version__}"
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
    except HFValidationError as error:
        raise HubError(f"{repo!r} cannot name a repository ({error}); write it as NAME or OWNER/NAME") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "log in with `hf auth login` or set HF_TOKEN" if status in (401, 403) else "see what it says, try again"
        raise HubError(f"the Hub refuses {repo!r} ({status} {error.server_message or ''}): {hint}") from None
    except (HTTPError, ConnectionError) as error:
        raise HubError(f"the Hub cannot be reached to publish {repo!r}: {error or type(error).__name__}") from None
    return str(commit.commit_url)
