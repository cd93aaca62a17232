"""What keeps the hub from being asked or from answering: its client's exceptions -> ours, with what to do about them.

Knows the client, its settings and a hub's refusals. Knows nothing of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from cotcli.errors import HubError, UsageError

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""What a hub answers when it is only for now that it cannot."""
AGAIN = "Check the connection and start it again: what has come is kept"
NO_HUB = "Is HF_ENDPOINT a hub's address, and must one log in to this network first?"
ONLINE = "Start it without --offline and HF_HUB_OFFLINE"
_LATER = "Start it again later: what has come is kept"


def page(repo: str) -> str:
    """Where people read about a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def status_of(error: Exception) -> int | None:
    """What the hub answered, if it did."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_transient(error: Exception) -> bool:
    """Whether it may help to ask again: the connection broke, or the hub says so."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    if isinstance(error, HfHubHTTPError):
        return status_of(error) in TRANSIENT
    return isinstance(error, HTTPError)


@contextmanager
def no_hub_errors() -> Iterator[None]:
    """What the client makes of a page for people, such as of a network's login."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except HFValidationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError(f"{constants.ENDPOINT} does not answer as a hub does", NO_HUB) from error


def check_address() -> None:
    """Before the client is imported, which fails at an address that is none."""
    address = os.environ.get("HF_ENDPOINT")
    try:
        parts = urlsplit(address or "https://HOST")
        valid = parts.hostname is not None and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise HubError(f"HF_ENDPOINT is {address}, which is no address", "Unset it, or give one like https://HOST")


def is_gone(error: HubError) -> bool:
    """Whether it says that the hub has the repository, but not or no longer the revision."""
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error.__cause__, RevisionNotFoundError)


@contextmanager
def hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """The client's errors as ours, which call the repository and the revision by these names."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"{repo} cannot be a repository's name: {' '.join(str(error).split())}") from error
    except OfflineModeIsEnabled as error:
        raise HubError(f"HF_HUB_OFFLINE is set, and {repo} is not on this machine", "Unset it") from error
    except GatedRepoError as error:
        raise HubError(
            f"{repo} is gated: its owner lets in who accepts its licence",
            f"Accept it at {page(repo)}, then: hf auth login (or set HF_TOKEN), and try again",
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"there is no repository {repo} on {constants.ENDPOINT}, or it is not open to you",
            f"If it is private: hf auth login (or set HF_TOKEN); else look at {page(repo)}",
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision or 'main'}", f"See {page(repo)}/commits/main") from error
    except EntryNotFoundError as error:
        raise HubError(f"{repo} lacks a file that it lists", "Start it again") from error
    except HfHubHTTPError as error:
        status = status_of(error)
        if status == 429:
            raise HubError(f"{constants.ENDPOINT} wants fewer requests", f"{_LATER}. Or: hf auth login") from error
        if status in (401, 403):
            raise HubError(
                f"{constants.ENDPOINT} refuses {repo}: the token is wrong or lacks a right",
                "Make a new one: hf auth login",
            ) from error
        raise HubError(f"{constants.ENDPOINT} answers with error {status}", _LATER) from error
    except HTTPError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HubError(f"cannot reach {constants.ENDPOINT}: {reason}", AGAIN) from error
