"""Every setting, read once: flags over environment over file over defaults. docs/configuration.md says the same in prose."""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from myna.runtime.errors import ConfigurationError

CONFIG_VARIABLE = "MYNA_CONFIG"
DEFAULT_FILE = "myna.toml"
SHORTEST_UTTERANCE_S = 2.0
"""The native protocol's lower bound of `max_utterance_s`, too."""


class Settings(BaseSettings):
    """The server's settings. Durations carry their unit in their name."""

    model_config = SettingsConfigDict(
        env_prefix="MYNA_",
        frozen=True,
        extra="forbid",
        cli_prog_name="myna serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    model: str = Field(
        "moonshine-tiny-en",
        description="Model of clients that ask for none: a name, a `.nemo` file, or a hub name such as `owner/name`.",
    )
    models: Path = Field(Path("models"), description="Folder whose `.nemo` files are models.")
    aliases: dict[str, str] = Field({}, description="Other names of models, each with what it stands for.")
    languages: dict[str, list[str]] = Field({}, description="What models know, by name, where their files do not say.")
    preload: list[str] = Field([], description="Models loaded at start besides the default; others are at first use.")
    models_memory_mb: int = Field(
        0,
        ge=0,
        le=1 << 30,
        description="Memory that loaded models may take; the least used is unloaded for another. 0: no limit.",
    )
    device: str = Field("auto", description="Where Parakeet runs: `auto`, `cpu`, `cuda`, `cuda:1` …")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Of Parakeet's encoder; `auto`: bf16 on a GPU that has it, else fp32."
    )
    cuda_graphs: bool = Field(default=True, description="Decode with CUDA graphs; switch off if a small card fails.")
    torch_compile: bool = Field(
        default=False, description="Compile Parakeet's encoder: slow to start, needs a C++ compiler."
    )
    largest_batch: int = Field(
        0, ge=0, le=1024, description="Most utterances Parakeet decodes in one step; 0: 64 on a GPU, 16 on a CPU."
    )
    lanes: int = Field(
        0,
        ge=0,
        le=256,
        description="Cores a model may use; Moonshine decodes one utterance on each. 0: all; for Parakeet all but one.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes of a model; of Parakeet each takes another GPU. 0: one; of Moonshine one a lane.",
    )
    final_target_ms: int = Field(
        700,
        ge=0,
        le=60_000,
        description="95 % of finals are to come so soon after their endpoint; streams beyond that are refused. 0: none is.",
    )
    stuck_after_s: float = Field(
        4.0, ge=1, le=600, description="A worker that is silent, or stuck in one step, for so long is replaced."
    )
    endpointing_ms: int = Field(
        500,
        ge=0,
        le=10_000,
        description="Silence that ends an utterance, unless the client asks otherwise; 0: never.",
    )
    max_utterance_s: float = Field(
        0.0,
        ge=0,
        le=60,
        description="Length at which speech without a pause is cut (2 s or more) if no client says; 0: what suits the model.",
    )
    context_s: float = Field(
        10.0,
        ge=0,
        le=60,
        description="Audio before a cut that is decoded again with what follows it, where the model has use for it.",
    )
    interim_every_s: float = Field(
        0.8, ge=0.1, le=10, description="Speech after which a new partial transcript is due."
    )
    start_timeout_s: float = Field(10.0, gt=0, le=3600, description="A client must send its start message within this.")
    idle_timeout_s: float = Field(
        30.0, gt=0, le=86_400, description="A client must send audio or a keepalive at least this often."
    )
    deepgram_idle_timeout_s: float = Field(
        10.0, gt=0, le=86_400, description="The same for Deepgram's clients, which count on Deepgram's 10 s."
    )
    realtime_idle_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=86_400,
        description="The same for clients of OpenAI's Realtime API, which may be silent while nobody speaks.",
    )
    resume_s: float = Field(
        60.0,
        ge=0,
        le=600,
        description="A stream whose client has lost its connection waits for it so long; 0: not at all.",
    )
    drain_s: float = Field(
        30.0, ge=0, le=3600, description="A server that is told to stop lets streams go on for so long, then ends them."
    )
    max_streams: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Live channels a model takes at most, silent ones included; 0: as many as keep the target.",
    )
    key_streams: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Live channels a key may have at a time, unless its entry says; 0: any number.",
    )
    key_requests: int = Field(
        0, ge=0, le=1_000_000, description="Files a key may have at a time, unless its entry says; 0: any number."
    )
    keys: Path | None = Field(
        None, description="File of API keys (`myna keys add`); without one everybody may come in, from this machine."
    )
    allow_anonymous: bool = Field(
        default=False, description="Listen on other than loopback addresses although there are no keys."
    )
    allowed_hosts: list[str] = Field(
        [], description="Names, besides `localhost` and `host`, that a server without keys answers to; `*`: any."
    )
    allowed_origins: list[str] = Field(
        [],
        description="Origins whose pages may use this server besides its own, such as `https://example.com`; `*`: any.",
    )
    reflector_hosts: list[str] = Field(
        ["transcription"],
        description="Names by which Reflector calls this server; the words of such requests carry their spaces. `*`: any.",
    )
    allowed_networks: list[str] = Field(
        [], description="Private networks that callbacks and fetched files may reach, such as `10.0.0.0/8`."
    )
    without_diarizer: Literal["answer", "refuse"] = Field(
        "answer",
        description="What `diarize` gets: `answer`, as from Deepgram's own servers, words without speakers; `refuse`: 400.",
    )
    data: Path = Field(
        Path("data"), description="Folder of what must survive a restart: requests to be answered later."
    )
    max_upload_mb: int = Field(2048, ge=1, le=1 << 20, description="Largest file taken, uploaded or fetched, in MiB.")
    max_file_hours: float = Field(12.0, gt=0, le=100, description="Longest audio taken as a file.")
    files_at_once: int = Field(
        8, ge=1, le=1000, description="Files transcribed at a time; others wait, and clients share the places."
    )
    max_files: int = Field(
        64, ge=1, le=100_000, description="Requests with files in hand at a time; a client may have half of them."
    )
    max_jobs: int = Field(
        2000, ge=1, le=100_000, description="Jobs that are not at their end; a client may have half of them."
    )
    max_stored_mb: int = Field(
        20_480,
        ge=1,
        le=1 << 30,
        description="Audio of files and jobs on the disk, in MiB; a client may have half of it.",
    )
    min_free_mb: int = Field(
        512, ge=0, le=1 << 30, description="Space in MiB that stays free on the disk: files are refused below it."
    )
    max_frame_bytes: int = Field(
        24 * 1024 * 1024,  # OpenAI's clients may append 15 MiB at a time, which are 20 in base64
        ge=1024,
        le=64 * 1024 * 1024,
        description="Largest WebSocket message taken from a client.",
    )
    max_unfinished_mb: int = Field(
        256, ge=1, le=65_536, description="Unfinished WebSocket messages of all clients together, in MiB."
    )
    request_timeout_s: float = Field(
        10.0, gt=0, le=600, description="A request's first byte must come within this, and its headers within as much."
    )
    keepalive_s: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="A connection is kept for another request so long; longer than your proxy does.",
    )
    max_unauthenticated: int = Field(
        512,
        ge=4,
        le=1_000_000,
        description="Connections that have not shown a key, or asked for anything; a quarter of them of one address.",
    )
    max_backlog_s: float = Field(
        30.0,
        ge=5,
        le=600,
        description="Audio a stream may have waiting before the server stops reading from its client.",
    )
    spool_mb: int = Field(
        32, ge=1, le=4096, description="Audio in MiB, as it was sent, that is kept of a client that is that far ahead."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines are written.")

    @field_validator("max_utterance_s")
    @classmethod
    def _check_utterance(cls, length_s: float) -> float:
        if 0 < length_s < SHORTEST_UTTERANCE_S:
            raise ValueError(f"it must be 0, or from {SHORTEST_UTTERANCE_S:g} s: shorter pieces hold no whole words")
        return length_s

    @field_validator("allowed_hosts", "reflector_hosts")
    @classmethod
    def _check_hosts(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not re.fullmatch(r"\*|\[?[\w.:-]+\]?", host) or re.search(r"[^:]:[0-9]+$", host):
                raise ValueError("a host is a name without scheme, port and path")
        return hosts

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+/?", origin, re.IGNORECASE):
                raise ValueError("an origin is a scheme, a host and, unless it is the scheme's own, a port")
        return origins

    @field_validator("allowed_networks")
    @classmethod
    def _check_networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            ip_network(network)
        return networks

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources; the first that has a value wins."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def config_file() -> Path | None:
    """Return the file that `MYNA_CONFIG` names, or `myna.toml` in the working folder if there is one."""
    if named := os.environ.get(CONFIG_VARIABLE):
        if not Path(named).is_file():
            raise ConfigurationError(f"{CONFIG_VARIABLE} names {named}, which is no file")
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def load(flags: list[str] | None = None) -> Settings:
    """Read the settings; `flags` are command-line arguments. Raises `ConfigurationError`.

    ``--help`` and unknown flags are answered as command lines do, by ending the program (status 0 and 2).
    """
    arguments: dict[str, Any] = {} if flags is None else {"_cli_parse_args": flags}
    try:
        return Settings(**arguments)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"setting {name}: {first['msg']}, not {first['input']!r}") from error
    except (SettingsError, ValueError, OSError) as error:
        raise ConfigurationError(f"the configuration cannot be read: {error}") from error
