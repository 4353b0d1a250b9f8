"""Authentication: API keys with names and scopes in a file, and short-lived tokens made with a key.

A key is 256 random bits. The file holds only its SHA-256, so that it can be backed up and read by people. A changed file is
read again: a key that was added is accepted at once, one that was removed is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import jwt
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from myna.runtime.errors import ConfigurationError, Refusal

log = structlog.get_logger()

LONGEST_GRANT_S = 3600
"""Seconds that a token may be valid: Deepgram's limit."""
_SCHEMES = ("token", "bearer")
_REALTIME, _KEY_PROTOCOL = "realtime", "openai-insecure-api-key."
_ALGORITHM = "HS256"
_EPHEMERAL = "ek_"
"""The prefix of what OpenAI calls a client secret."""
_FINGERPRINT = 16
"""Hexadecimal digits of a key's SHA-256 that distinguish it from others of its name: 64 bits, which nobody can choose."""
_PREFIX = "myna_"
"""The prefix of every key, by which scanners for leaked secrets recognise it."""


class Scope(StrEnum):
    """What a key allows."""

    TRANSCRIBE = "transcribe"
    """Streams and files."""
    GRANT = "grant"
    """Making short-lived tokens, which allow transcribing."""


class _Key(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: frozenset[Scope] = frozenset(Scope)
    streams: Annotated[int, Field(ge=1)] | None = None
    requests: Annotated[int, Field(ge=1)] | None = None

    @property
    def identity(self) -> Identity:
        """The identity of a client with this key."""
        return Identity(self.name, self.scopes, self.streams, self.requests, self.sha256[:_FINGERPRINT])


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[_Key] = []


@dataclass(frozen=True, slots=True)
class Credential:
    """A client's secret, and the WebSocket sub-protocol that carried it, which the server has to echo."""

    secret: str
    subprotocol: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """A client: the name of its API key, its scopes, and how many streams and files it may have; None is the default.

    `fingerprint` distinguishes the key from an earlier or later one of its name. `by_token` says that the client used a token
    made with the key. If `session` is set, the token is a client secret for this session of OpenAI's Realtime API only.
    """

    name: str
    scopes: frozenset[Scope]
    streams: int | None = None
    requests: int | None = None
    fingerprint: str = ""
    by_token: bool = False
    session: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """A unique id of the key, for what belongs to it: resumable streams, jobs, tokens."""
        return f"{self.name}#{self.fingerprint}" if self.fingerprint else self.name


def name_of(identity_id: str) -> str:
    """Return the name of the key in an `Identity.id`."""
    return re.sub(f"#[0-9a-f]{{{_FINGERPRINT}}}$", "", identity_id)


ANYBODY = Identity("anybody", frozenset(Scope))
"""Every client of a server without keys."""


def credential(headers: Mapping[str, str]) -> Credential | None:
    """Return the client's credential: ``Authorization: Token|Bearer SECRET``, or a sub-protocol.

    Deepgram's clients offer ``token|bearer, SECRET``, OpenAI's ``realtime, openai-insecure-api-key.SECRET``.
    """
    scheme, _, secret = headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() in _SCHEMES and secret.strip():
        return Credential(secret.strip())
    offered = [part.strip() for part in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if _REALTIME in offered:
        shown = [part.removeprefix(_KEY_PROTOCOL) for part in offered if part.startswith(_KEY_PROTOCOL)]
        return Credential(shown[0] if shown else "", _REALTIME)
    for protocol, value in pairwise(offered):
        if protocol.lower() in _SCHEMES:
            return Credential(value, protocol)
    return None


def new_secret() -> bytes:
    """Return a random secret that signs tokens. Tokens are valid for minutes, so a restart may invalidate them."""
    return secrets.token_bytes(32)


class Authentication:
    """The keys of one server. If `file` is None there are none, and every client is admitted.

    `secret` signs the tokens: processes that share it accept each other's. None: a random one.
    """

    def __init__(self, file: Path | None, secret: bytes | None = None) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._keys: list[_Key] = []
        self._by_id: dict[str, _Key] = {}
        self._secret = secret or new_secret()
        if file is not None:
            self._stamp = _stamp(file)
            self._keep(_read(file))

    @property
    def required(self) -> bool:
        """Whether clients need an API key."""
        return self._file is not None

    def identify(
        self, shown: Credential | None, scope: Scope | None = None, *, client_secrets: bool = False
    ) -> Identity:
        """Return the client with this credential. Raises `Refusal` if it is unknown or lacks the scope.

        `client_secrets` says that client secrets of OpenAI's Realtime API are accepted.
        """
        if not self.required:
            return ANYBODY
        identity = None if shown is None else self._by_key(shown.secret) or self._by_token(shown.secret)
        if identity is None:
            raise Refusal(401, "unauthorized", "Invalid credentials.")
        if identity.session is not None and not client_secrets:
            message = "A client secret is valid only for a session of the Realtime API at /v1/realtime."
            raise Refusal(403, "forbidden", message)
        if scope is not None and scope not in identity.scopes:
            raise Refusal(
                403,
                "forbidden",
                f"API key {identity.name!r} lacks the scope {scope.value!r}.",
            )
        return identity

    def grant(self, identity: Identity, ttl_s: int, session: Mapping[str, Any] | None = None) -> str:
        """Return a token that allows transcribing for `ttl_s` seconds, in this session only if one is given."""
        claims: dict[str, Any] = {"sub": self._subject(identity), "exp": time.time() + ttl_s}
        if session is None:
            return jwt.encode(claims, self._secret, _ALGORITHM)
        return _EPHEMERAL + jwt.encode({**claims, "session": session}, self._secret, _ALGORITHM)

    def still_allows(self, identity: Identity) -> bool:
        """Return whether a stream of this client may continue: its key exists and has the scope that admitted the stream."""
        if not self.required:
            return True
        key = self._by_id.get(identity.id)
        return key is not None and (Scope.GRANT if identity.by_token else Scope.TRANSCRIBE) in key.scopes

    def session(self, shown: Credential | None) -> Mapping[str, Any] | None:
        """Return the session that the token was made for, if any."""
        claims = self._claims(shown.secret) if shown else None
        return None if claims is None else claims.get("session")

    def _by_key(self, secret: str) -> Identity | None:
        self.reload_if_changed()
        # Header bytes that are not UTF-8 arrive as surrogates, and are hashed as the original bytes.
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for key in self._keys:  # compares all keys: the time must not reveal which one nearly matched
            if hmac.compare_digest(key.sha256, digest):
                found = key.identity
        return found

    def _by_token(self, secret: str) -> Identity | None:
        claims = self._claims(secret)
        if claims is None:
            return None
        for key in self._keys:
            if Scope.GRANT in key.scopes and hmac.compare_digest(self._subject(key.identity), str(claims["sub"])):
                return replace(
                    key.identity,
                    scopes=frozenset({Scope.TRANSCRIBE}),
                    by_token=True,
                    session=claims.get("session"),
                )
        return None

    def _subject(self, identity: Identity) -> str:
        """Return the key's id in its tokens, from which a client cannot learn the key's name or hash."""
        return hmac.new(self._secret, identity.id.encode(), hashlib.sha256).hexdigest()

    def _claims(self, secret: str) -> dict[str, Any] | None:
        token = secret.removeprefix(_EPHEMERAL)
        try:
            return jwt.decode(token, self._secret, [_ALGORITHM], options={"require": ["exp", "sub"]})
        except (jwt.InvalidTokenError, ValueError):
            return None

    def reload(self) -> None:
        """Read the key file, even if it has not changed."""
        self._stamp = None
        self.reload_if_changed()

    def reload_if_changed(self) -> None:
        """Read the key file if it has changed. An invalid file leaves the keys as they were."""
        if self._file is None:
            return
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keep(_read(self._file))
        except ConfigurationError as error:
            log.error("the key file is invalid; the previous keys stay in use", reason=str(error))
        else:
            log.info("API keys loaded", file=str(self._file), names=[key.name for key in self._keys])

    def _keep(self, keys: list[_Key]) -> None:
        self._keys, self._by_id = keys, {key.identity.id: key for key in keys}


def add_key(file: Path, name: str, scopes: frozenset[Scope]) -> str:
    """Append a new key to the file, which is created if it does not exist; return the key. Raises `ConfigurationError`."""
    if file.exists() and any(key.name == name for key in _read(file)):
        raise ConfigurationError(f"{file} already has a key named {name!r}; remove it first, or choose another name")
    secret = _PREFIX + secrets.token_urlsafe(32)
    try:
        key = _Key(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=scopes)
    except ValidationError as error:
        raise ConfigurationError(f"{name!r} is not a valid name for a key: {error.errors()[0]['msg']}") from error
    quoted = ", ".join(f'"{scope.value}"' for scope in Scope if scope in scopes)
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    try:
        file.touch(mode=0o600)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f'[[key]]\nname = "{escaped}"\nsha256 = "{key.sha256}"\nscopes = [{quoted}]\n\n')
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error
    return secret


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def _read(file: Path) -> list[_Key]:
    try:
        keys = _KeyFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).key
    except OSError as error:
        raise ConfigurationError(f"the key file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the key file {file} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"the key file {file} is invalid: {where}: {first['msg']}") from error
    names = [key.name for key in keys]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"the key file {file} has more than one key named {', '.join(sorted(twice))}")
    return keys
