"""Receives request bodies onto the disk: multipart forms and plain bodies, within limits of size and number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from myna.batch.disk import FileWriter, Upload
from myna.runtime.errors import Refusal
from myna.server.http.connections import SlowBodyError
from myna.wire.quoting import quoted
from myna.wire.strictjson import well_formed

_Read = TypeVar("_Read")

LONGEST_FIELD = 64 * 1024
"""Bytes of a form field that is not a file."""
MOST_FIELDS = 500
MOST_FILES = 50
"""Files in one request. A client with more files can send several requests at a time."""


@dataclass(slots=True)
class Form:
    """A form's fields, in order and with repetitions, and its files by the name of their field."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, Upload]] = field(default_factory=list)
    stored: list[Upload] = field(default_factory=list)
    """The values of the field that was to be stored."""


class Receiver:
    """Receives one request's body into a folder. `most_bytes` bounds the size of all its files together.

    `grow` is called with a number of bytes before they are written, and may raise `Refusal`. `least_free` bytes of the disk
    stay free. A method that writes a file raises `OSError` if it cannot.
    """

    def __init__(
        self,
        request: web.Request,
        folder: Path,
        most_bytes: int,
        grow: Callable[[int], None] = lambda _: None,
        least_free: int = 0,
    ) -> None:
        self._request = request
        self._folder = folder
        self._most_bytes = most_bytes
        self._grow = grow
        self._least_free = least_free
        self._left = most_bytes
        self._count = 0
        coding = request.headers.get("Content-Encoding", "identity")
        if coding.strip().lower() != "identity":
            raise Refusal(
                415,
                "unsupported_encoding",
                f"Content-Encoding must be absent or identity, not {quoted(coding)}.",
            )
        announced = request.content_length
        if announced is not None and announced > most_bytes + (1 << 20):
            raise self._too_large()

    async def body(self, *, sync: bool = False) -> Upload:
        """Store the whole body as one file; with `sync`, wait until it is on the medium. Raises `Refusal`."""
        return await self._store(self._request.content.readany, "", sync=sync)

    async def text(self, most_bytes: int) -> str:
        """Return the body as text. Raises `Refusal`."""
        data = bytearray()
        while chunk := await self._patiently(self._request.content.readany()):
            data += chunk
            if len(data) > most_bytes:
                raise Refusal(413, "too_large", f"The JSON payload must have at most {most_bytes} bytes.")
        return data.decode(errors="replace")

    async def form(self, stored: str | None = None, longest: int = 0) -> Form:
        """Return a multipart form, its files stored. Raises `Refusal`.

        The values of the field `stored`, or `stored[]`, are stored as files, too, of at most `longest` bytes each.
        """
        if not self._request.content_type.startswith("multipart/form-data"):
            raise Refusal(415, "unsupported_media_type", "The body must be multipart/form-data.")
        form = Form()
        try:
            reader: MultipartReader = await self._request.multipart()
            while (part := await self._patiently(reader.next())) is not None:
                if not isinstance(part, BodyPartReader) or not part.name:
                    raise Refusal(400, "bad_form", "Each part of the form must have a name and no nested parts.")
                if part.name.removesuffix("[]") == stored:
                    if len(form.stored) == MOST_FILES:
                        raise Refusal(400, "too_many_fields", f"{stored} must have at most {MOST_FILES} values.")
                    form.stored.append(await self._store(part.read_chunk, "", most=longest, field=stored))
                elif part.filename is not None:
                    if len(form.files) == MOST_FILES:
                        raise Refusal(400, "too_many_files", f"A request may have at most {MOST_FILES} files.")
                    form.files.append((part.name, await self._store(part.read_chunk, well_formed(part.filename))))
                else:
                    if len(form.fields) == MOST_FIELDS:
                        raise Refusal(400, "too_many_fields", f"A form may have at most {MOST_FIELDS} fields.")
                    form.fields.append((part.name, await self._text(part)))
        except (ValueError, AssertionError, LookupError, RuntimeError, HttpProcessingError) as error:
            raise Refusal(
                400, "bad_form", "The multipart form cannot be parsed: it is incomplete or malformed."
            ) from error
        return form

    async def _text(self, part: BodyPartReader) -> str:
        data = bytearray()
        while chunk := await self._patiently(part.read_chunk()):
            data += chunk
            if len(data) > LONGEST_FIELD:
                raise Refusal(
                    400,
                    "field_too_long",
                    f"The form field {quoted(part.name)} must have at most {LONGEST_FIELD} bytes.",
                )
        return data.decode(errors="replace")

    async def _store(
        self,
        read: Callable[[], Awaitable[bytes]],
        name: str,
        *,
        sync: bool = False,
        most: int | None = None,
        field: str = "",
    ) -> Upload:
        self._count += 1
        path = self._folder / f"upload-{self._count}"
        async with FileWriter(path, self._grow, self._least_free) as file:
            while data := await self._patiently(read()):
                self._left -= len(data)
                if self._left < 0:
                    raise self._too_large()
                if most is not None and file.size + len(data) > most:
                    raise Refusal(
                        400, "field_too_long", f"{field} must have at most {most} bytes in each value.", param=field
                    )
                await file.write(data)
            return Upload(path, name, file.size, await file.finish(sync=sync))

    async def _patiently(self, reading: Awaitable[_Read]) -> _Read:
        try:
            return await reading
        except web.RequestPayloadError as error:
            raise Refusal(400, "broken_body", "The body is incomplete or wrongly encoded.") from error
        except SlowBodyError as error:
            raise Refusal(408, "timeout", error.text or "") from error

    def _too_large(self) -> Refusal:
        return Refusal(413, "too_large", f"The body must have at most {self._most_bytes >> 20} MiB.")
