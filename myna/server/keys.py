"""Who may come in: API keys with names and scopes in a file, and short-lived tokens made with one of them.

A key is 256 random bits; the file holds only its SHA-256, so that it can be backed up and read by people. It is looked at
again whenever it has changed: a key that is added counts at once, one that is removed opens nothing more.
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

from myna.runtime.errors import ConfigurationError
from myna.runtime.errors import Refusal

log = structlog.get_logger()

LONGEST_GRANT_S = 3600
"""Deepgram's own limit for a token."""
_SCHEMES = ("token", "bearer")
_REALTIME, _KEY_PROTOCOL = "realtime", "openai-insecure-api-key."
_ALGORITHM = "HS256"
_EPHEMERAL = "ek_"
"""Begins what OpenAI calls a client secret."""
_FINGERPRINT = 16
"""Hexadecimal digits of a key's SHA-256 that tell it from another of its name: 64 bits, of which nobody can choose one."""
_PREFIX = "myna_"
"""Begins every key, so that scanners for leaked secrets can know one."""


class Scope(StrEnum):
    """What a key is good for."""

    TRANSCRIBE = "transcribe"
    """Streams and files."""
    GRANT = "grant"
    """Making short-lived tokens, which can transcribe."""


class _Key(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: frozenset[Scope] = frozenset(Scope)
    streams: Annotated[int, Field(ge=1)] | None = None
    requests: Annotated[int, Field(ge=1)] | None = None

    @property
    def identity(self) -> Identity:
        """Who shows this key."""
        return Identity(self.name, self.scopes, self.streams, self.requests, self.sha256[:_FINGERPRINT])


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[_Key] = []


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client shows, and the WebSocket sub-protocol by which it did, which the server has to echo."""

    secret: str
    subprotocol: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is: the name of its key, what it may do, and how many streams and files at a time; None: the default.

    `fingerprint` tells the key from another that bears its name before or after it. `by_token`: the client shows a token made
    with the key. `session`: the token is a client secret, which opens this session of OpenAI's Realtime API and nothing else.
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
        """Names the key and no other, for what is kept: streams that wait for their client, jobs, tokens."""
        return f"{self.name}#{self.fingerprint}" if self.fingerprint else self.name


def name_of(identity_id: str) -> str:
    """Return the name of the key that an `Identity.id` stands for."""
    return re.sub(f"#[0-9a-f]{{{_FINGERPRINT}}}$", "", identity_id)


ANYBODY = Identity("anybody", frozenset(Scope))
"""Every client of a server without keys."""


def credential(headers: Mapping[str, str]) -> Credential | None:
    """Return what the client shows: ``Authorization: Token|Bearer SECRET``, or a sub-protocol.

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


class Authentication:
    """Knows the keys of one server. `file` None: there are none, and everybody may come in."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._keys: list[_Key] = []
        self._by_id: dict[str, _Key] = {}
        self._secret = secrets.token_bytes(32)  # tokens live for minutes: a restart may end them
        if file is not None:
            self._stamp = _stamp(file)
            self._keep(_read(file))

    @property
    def required(self) -> bool:
        """Whether clients need a key."""
        return self._file is not None

    def identify(
        self, shown: Credential | None, scope: Scope | None = None, *, client_secrets: bool = False
    ) -> Identity:
        """Return who shows this. Raises `Refusal` if nobody known does, or one who may not do what `scope` says.

        `client_secrets`: what is asked for is a session of OpenAI's Realtime API, which client secrets open.
        """
        if not self.required:
            return ANYBODY
        identity = None if shown is None else self._by_key(shown.secret) or self._by_token(shown.secret)
        if identity is None:
            raise Refusal(401, "unauthorized", "Invalid credentials.")
        if identity.session is not None and not client_secrets:
            message = "A client secret opens a session of the Realtime API at /v1/realtime, and nothing else."
            raise Refusal(403, "forbidden", message)
        if scope is not None and scope not in identity.scopes:
            raise Refusal(
                403,
                "forbidden",
                f"The key {identity.name!r} lacks the scope {scope.value!r}, which this request needs.",
            )
        return identity

    def grant(self, identity: Identity, ttl_s: int, session: Mapping[str, Any] | None = None) -> str:
        """Return a token with which its bearer can transcribe for so many seconds, in this session if there is one."""
        claims: dict[str, Any] = {"sub": self._subject(identity), "exp": time.time() + ttl_s}
        if session is None:
            return jwt.encode(claims, self._secret, _ALGORITHM)
        return _EPHEMERAL + jwt.encode({**claims, "session": session}, self._secret, _ALGORITHM)

    def still_allows(self, identity: Identity) -> bool:
        """Return whether a stream that this identity began may go on: its key is there, with the scope that let it in."""
        if not self.required:
            return True
        key = self._by_id.get(identity.id)
        return key is not None and (Scope.GRANT if identity.by_token else Scope.TRANSCRIBE) in key.scopes

    def session(self, shown: Credential | None) -> Mapping[str, Any] | None:
        """Return the session that a token was made for."""
        claims = self._claims(shown.secret) if shown else None
        return None if claims is None else claims.get("session")

    def _by_key(self, secret: str) -> Identity | None:
        self.look()
        # A header holds bytes: those that are no UTF-8 come as surrogates, and are hashed as the bytes they were.
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for key in self._keys:  # all of them: how long it takes must not tell which one was nearly right
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
        """Return what stands for a key in its tokens: nothing that tells its name or its hash to their bearer."""
        return hmac.new(self._secret, identity.id.encode(), hashlib.sha256).hexdigest()

    def _claims(self, secret: str) -> dict[str, Any] | None:
        token = secret.removeprefix(_EPHEMERAL)
        try:
            return jwt.decode(token, self._secret, [_ALGORITHM], options={"require": ["exp", "sub"]})
        except (jwt.InvalidTokenError, ValueError):
            return None

    def read_again(self) -> None:
        """Read the key file now, whether it has changed or not."""
        self._stamp = None
        self.look()

    def look(self) -> None:
        """Read the file again if it has changed; one that cannot be used leaves the keys as they were."""
        if self._file is None:
            return
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keep(_read(self._file))
        except ConfigurationError as error:
            log.error("the key file cannot be used; the keys stay as they were", reason=str(error))
        else:
            log.info("keys read", file=str(self._file), names=[key.name for key in self._keys])

    def _keep(self, keys: list[_Key]) -> None:
        self._keys, self._by_id = keys, {key.identity.id: key for key in keys}


def add_key(file: Path, name: str, scopes: frozenset[Scope]) -> str:
    """Write a new key to the file, which is made if it is not there, and return it. Raises `ConfigurationError`."""
    if file.exists() and any(key.name == name for key in _read(file)):
        raise ConfigurationError(f"{file} has a key {name!r} already; remove it there first, or choose another name")
    secret = _PREFIX + secrets.token_urlsafe(32)
    try:
        key = _Key(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=scopes)
    except ValidationError as error:
        raise ConfigurationError(f"a key cannot be named {name!r}: {error.errors()[0]['msg']}") from error
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
        raise ConfigurationError(f"the key file {file} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"the key file {file}: {where}: {first['msg']}") from error
    names = [key.name for key in keys]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"the key file {file} has more than one key named {', '.join(sorted(twice))}")
    return keys
