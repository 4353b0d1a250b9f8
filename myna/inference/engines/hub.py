"""Downloads from a model hub, for the engines that load models by a hub name (owner/name)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from myna.streaming.errors import EngineUnavailableError


def downloaded(source: str, what: str, download: Callable[[], str]) -> Path:
    """Return what `download` returns: the path of `what` from the hub name `source`. Raises `EngineUnavailableError`."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(download())
    except LocalEntryNotFoundError as error:
        raise EngineUnavailableError(
            f"{source} is not on this machine and the model hub is unreachable;"
            f" download {what} on another machine and set its path"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EngineUnavailableError(f"cannot download {what} from {source} on the model hub: {reason}") from error
