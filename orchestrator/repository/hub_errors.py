"""A Hugging Face hub's failures as this project's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from orchestrator.errors import ArtifactNotFoundError, GatedModelError, HubUnreachableError
from orchestrator.repository.sources import HubSource


def offline_way(model: str) -> str:
    """What a reader without the hub can do for ``model``."""
    return (
        f"name a local file or folder instead (--model {model}=/path/to/model), or use the embedded weights "
        f"(--model {model}=embedded)"
    )


@contextmanager
def hub_errors(source: HubSource, model: str, host: str) -> Iterator[None]:
    """Turn what the hub library raises about ``source`` into errors with ``host``, ``model`` and a fix."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The base error of the HTTP library that this version of the hub library uses (httpx or its successor).
    transport_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    where = {"host": host, "model": model}
    away = "check the network, or " + offline_way(model)
    try:
        yield
    except GatedRepoError as error:
        raise GatedModelError(
            f"{source.id} is gated: the hub gives it only to accounts that accepted its licence",
            fix=f"accept the licence on {source.id}'s page, then pass a token of that account in "
            "SPARK_SPEECH__BUILD__HUB_TOKEN (or run `hf auth login`), or " + offline_way(model),
            **where,
        ) from error
    except (RevisionNotFoundError, EntryNotFoundError) as error:
        what = "revision" if isinstance(error, RevisionNotFoundError) else "file"
        raise ArtifactNotFoundError(
            f"the hub has no such {what} of {source}",
            fix="check the revision on the model's page, or leave out @revision for the newest",
            **where,
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ArtifactNotFoundError(
            f"the hub has no model {source.id}, or none this account may see",
            fix="check the spelling; for a private model pass a token in SPARK_SPEECH__BUILD__HUB_TOKEN",
            **where,
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in {401, 403}:
            raise GatedModelError(
                f"the hub refuses {source.id} to this account (HTTP {status})",
                fix="pass a token that may read it in SPARK_SPEECH__BUILD__HUB_TOKEN",
                **where,
            ) from error
        raise HubUnreachableError(
            f"the hub cannot serve {source} now (HTTP {status})", fix="try again later, or " + away, **where
        ) from error
    except (transport_error, OfflineModeIsEnabled, FileMetadataError) as error:
        raise HubUnreachableError(f"the model hub does not answer: {error}", fix=away, **where) from error
    except (ValueError, TypeError, KeyError) as error:
        raise HubUnreachableError(
            f"what answers at {host} is no model hub: {error}",
            fix="check build.hub_endpoint, and whether a proxy or a login page answers in the hub's place",
            **where,
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # The hub library's own word for a body that ended early: no error number, kept for resuming.
        raise HubUnreachableError(
            f"the transfer of {source} was cut short: {error}",
            fix="run the command again: it goes on from there",
            **where,
        ) from error
