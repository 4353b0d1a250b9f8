"""What one process of a server with several fronts is, as its parent tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from myna.server.settings import Settings

FILES = 0
"""The number of the front that serves the requests with files, and no connections that it accepts itself."""
ENGINE = -1
"""The number of the engine process."""


class Role(msgspec.Struct, frozen=True):
    """A process of the server. `secret` signs tokens; `token` admits a front to the engine process."""

    number: int
    fronts: int
    folder: str
    """The private folder of the server's sockets."""
    secret: bytes
    token: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of this process in log lines and metrics."""
        return name_of(self.number)

    @property
    def others(self) -> list[int]:
        """The numbers of the other processes."""
        return [number for number in range(ENGINE, self.fronts + 1) if number != self.number]

    def link(self) -> Path:
        """Return the socket of the engine process at which fronts attach."""
        return Path(self.folder) / "link"

    def peer(self, number: int) -> Path:
        """Return the socket at which a process takes connections and questions from the other processes."""
        return Path(self.folder) / f"peer{number}"

    def read_settings(self) -> Settings:
        """Return the settings that the parent has read."""
        return HandedSettings(**self.settings)


def name_of(number: int) -> str:
    """Return the name of the process of this number."""
    return {ENGINE: "engine", FILES: "files"}.get(number, f"front {number}")


class HandedSettings(Settings):
    """Settings that another process has read: neither the environment nor a file adds to them."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the one source."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)
