"""Every setting, read once at the start: flags override the environment, the file and the defaults, in this order.

docs/configuration.md describes them for users.
"""

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
"""The lower bound of `max_utterance_s`, here and in the native protocol."""


class Settings(BaseSettings):
    """The server's settings. The name of a duration ends in its unit."""

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
        description="Default model: a name, a path, a hub name such as `owner/name`, or `auto`: by language.",
    )
    models: Path = Field(Path("models"), description="Folder whose files and folders are models.")
    aliases: dict[str, str] = Field({}, description="Other names for models, each with the model it stands for.")
    languages: dict[str, list[str]] = Field(
        {}, description="Languages of models, by model name, where their files do not state them."
    )
    models_by_language: dict[str, str] = Field(
        {},
        description="The model that `auto` stands for, by language code; `multi`: changing languages; `*`: all others.",
    )
    preload: list[str] = Field(
        [], description="Models loaded at start besides the default; others are loaded at first use."
    )
    models_memory_mb: int = Field(
        0,
        ge=0,
        le=1 << 30,
        description="Memory in MiB for loaded models; the least recently used is unloaded for another. 0: no limit.",
    )
    device: str = Field(
        "auto",
        description="Where Parakeet runs: `auto`, `cpu`, `cuda`, `cuda:1` …; exported models also on `tensorrt`.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="Precision of Parakeet's encoder; `auto`: bf16 on a GPU that supports it, int8 on a CPU if the model"
        " has it, else fp32.",
    )
    cuda_graphs: bool = Field(default=True, description="Decode with CUDA graphs; turn off if a small GPU fails.")
    torch_compile: bool = Field(
        default=False, description="Compile Parakeet's encoder: starts slowly and needs a C++ compiler."
    )
    largest_batch: int = Field(
        0, ge=0, le=1024, description="Most utterances Parakeet decodes in one step; 0: 64 on a GPU, 16 on a CPU."
    )
    look_ahead_ms: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Look-ahead of streaming models trained with several: the nearest; unset: the model's first.",
    )
    lanes: int = Field(
        0,
        ge=0,
        le=256,
        description="Cores a model may use; Moonshine decodes one utterance on each. 0: all, or for Parakeet all but one.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Worker processes per model; each of Parakeet's takes another GPU. 0: one, or for Moonshine one a lane.",
    )
    fronts: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Processes that serve clients and share one set of workers; unset: one process does both.",
    )
    final_target_ms: int = Field(
        700,
        ge=0,
        le=60_000,
        description="Delay after the endpoint for 95 % of finals; streams that would exceed it are refused. 0: no limit.",
    )
    stuck_after_s: float = Field(
        4.0,
        ge=1,
        le=600,
        description="A worker that sends nothing, or is stuck in one step, for this long is replaced.",
    )
    endpointing_ms: int = Field(
        500,
        ge=0,
        le=10_000,
        description="Silence that ends an utterance, unless the client sets its own; 0: never.",
    )
    max_utterance_s: float = Field(
        0.0,
        ge=0,
        le=60,
        description="Length at which speech without a pause is cut (2 s or more) by default; 0: the model's own.",
    )
    context_s: float = Field(
        10.0,
        ge=0,
        le=60,
        description="Audio before a cut that is decoded again with the audio after it, for models that use context.",
    )
    interim_every_s: float = Field(0.8, ge=0.1, le=10, description="Speech between two interim transcripts.")
    start_timeout_s: float = Field(10.0, gt=0, le=3600, description="Time limit for a client's start message.")
    idle_timeout_s: float = Field(
        30.0, gt=0, le=86_400, description="Longest time between two messages (audio or keepalive) of a client."
    )
    deepgram_idle_timeout_s: float = Field(
        10.0, gt=0, le=86_400, description="The same for clients of Deepgram's API, which expect Deepgram's 10 s."
    )
    realtime_idle_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=86_400,
        description="The same for clients of OpenAI's Realtime API, which may send nothing while nobody speaks.",
    )
    resume_s: float = Field(
        60.0,
        ge=0,
        le=600,
        description="Time a stream waits for its client to reconnect after the connection is lost; 0: none.",
    )
    drain_s: float = Field(
        30.0, ge=0, le=3600, description="Time that streams and files have to finish after the server is told to stop."
    )
    max_streams: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Most live channels of a model, silent ones included; 0: as many as meet the target.",
    )
    key_streams: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Live channels an API key may have at a time, unless its entry sets a limit; 0: no limit.",
    )
    key_requests: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Files an API key may have at a time, unless its entry sets a limit; 0: no limit.",
    )
    keys: Path | None = Field(
        None, description="File of API keys (`myna keys add`); without one any client on this machine may connect."
    )
    allow_anonymous: bool = Field(
        default=False, description="Allow listening on addresses other than loopback without API keys."
    )
    allowed_hosts: list[str] = Field(
        [], description="Host names, besides `localhost` and `host`, that a server without keys answers to; `*`: any."
    )
    allowed_origins: list[str] = Field(
        [],
        description="Origins whose web pages may use this server besides its own, such as `https://example.com`; `*`: any.",
    )
    reflector_hosts: list[str] = Field(
        ["transcription"],
        description="Host names by which Reflector calls this server; words in those answers include their spaces. `*`: any.",
    )
    allowed_networks: list[str] = Field(
        [],
        description="Private networks, such as `10.0.0.0/8`, in which clients may name addresses: of callbacks, of files.",
    )
    keyless_paths: list[str] = Field([], description="Paths, and those below them, open to `keyless_networks`.")
    keyless_networks: list[str] = Field([], description="Networks that may use `keyless_paths` without a key.")
    speakers_within_ms: int = Field(
        300,
        ge=0,
        le=60_000,
        description="How long a live final waits for the speakers of its words; then it goes without.",
    )
    diarization_model: str = Field(
        "",
        description="Model that tells speakers apart: a name or a folder. Empty: `diarization` if it is in `models`, else"
        " `speakers`, which is installed with the server.",
    )
    without_diarizer: Literal["answer", "refuse"] = Field(
        "answer",
        description="Reaction to `diarize` where no model tells speakers apart: `answer` without them, or `refuse` with 400.",
    )
    data: Path = Field(Path("data"), description="Folder for data that must survive a restart: jobs and their results.")
    max_upload_mb: int = Field(
        2048, ge=1, le=1 << 20, description="Largest file accepted, uploaded or fetched, in MiB."
    )
    max_file_hours: float = Field(12.0, gt=0, le=100, description="Longest audio accepted as a file.")
    files_at_once: int = Field(
        8, ge=1, le=1000, description="Files transcribed at a time; others wait, and clients take turns."
    )
    max_files: int = Field(
        64, ge=1, le=100_000, description="Requests with files at a time; one client may have half of them."
    )
    max_jobs: int = Field(2000, ge=1, le=100_000, description="Unfinished jobs; one client may have half of them.")
    max_stored_mb: int = Field(
        20_480,
        ge=1,
        le=1 << 30,
        description="Audio of files and jobs on the disk, in MiB; one client may have half of it.",
    )
    min_free_mb: int = Field(512, ge=0, le=1 << 30, description="Free disk space in MiB below which files are refused.")
    max_frame_bytes: int = Field(
        24 * 1024 * 1024,  # OpenAI's clients may append 15 MiB at a time, which take 20 MiB in base64
        ge=1024,
        le=64 * 1024 * 1024,
        description="Largest WebSocket message accepted from a client.",
    )
    max_unfinished_mb: int = Field(
        256, ge=1, le=65_536, description="Memory for unfinished WebSocket messages of all clients together, in MiB."
    )
    request_timeout_s: float = Field(
        10.0, gt=0, le=600, description="Time limit for a request's first byte, and again for its headers."
    )
    keepalive_s: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="Time an idle connection is kept for another request; set it longer than your proxy's.",
    )
    max_unauthenticated: int = Field(
        512,
        ge=4,
        le=1_000_000,
        description="Connections that have not authenticated yet; a quarter of them from one address.",
    )
    max_backlog_s: float = Field(
        30.0,
        ge=5,
        le=600,
        description="Audio of a stream that may wait for the engine before the server reads from its client more slowly.",
    )
    spool_mb: int = Field(
        32, ge=1, le=4096, description="Audio in MiB, as it was sent, that is kept for a client that is further ahead."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines are written.")

    @field_validator("max_utterance_s")
    @classmethod
    def _check_utterance(cls, length_s: float) -> float:
        if 0 < length_s < SHORTEST_UTTERANCE_S:
            raise ValueError(
                f"it must be 0, or at least {SHORTEST_UTTERANCE_S:g} s: shorter pieces hold no whole words"
            )
        return length_s

    @field_validator("allowed_hosts", "reflector_hosts")
    @classmethod
    def _check_hosts(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not re.fullmatch(r"\*|\[?[\w.:-]+\]?", host) or re.search(r"[^:]:[0-9]+$", host):
                raise ValueError("a host must be a name without scheme, port and path")
        return hosts

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+/?", origin, re.IGNORECASE):
                raise ValueError("an origin must be a scheme, a host and, unless it is the scheme's default, a port")
        return origins

    @field_validator("keyless_paths")
    @classmethod
    def _check_paths(cls, paths: list[str]) -> list[str]:
        for path in paths:
            if not re.fullmatch(r"(/[\w.-]+)+/?", path):
                raise ValueError("a path must begin with `/` and name a route, such as `/translate`")
        return paths

    @field_validator("allowed_networks", "keyless_networks")
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
        """Return the sources in order of precedence: the first that has a value wins."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def config_file() -> Path | None:
    """Return the file named by `MYNA_CONFIG`, or `myna.toml` in the working folder if it exists."""
    if named := os.environ.get(CONFIG_VARIABLE):
        if not Path(named).is_file():
            raise ConfigurationError(f"{CONFIG_VARIABLE} names {named}, which is not a file")
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def load(flags: list[str] | None = None) -> Settings:
    """Read the settings; `flags` are command-line arguments. Raises `ConfigurationError`.

    ``--help`` and unknown flags end the program, with status 0 and 2.
    """
    arguments: dict[str, Any] = {} if flags is None else {"_cli_parse_args": flags}
    try:
        return Settings(**arguments)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigurationError(f"unknown setting {name}") from error
        raise ConfigurationError(f"setting {name}: {first['msg']}, not {first['input']!r}") from error
    except (SettingsError, ValueError, OSError) as error:
        raise ConfigurationError(f"the configuration cannot be read: {error}") from error
