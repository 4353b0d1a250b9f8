"""Every dialect and vendor by its addresses. No other module names them all: a new dialect is a folder, and lines here."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping

from aiohttp import web

from myna.batch.address_gate import AddressGate
from myna.batch.job_runner import JobRunner
from myna.batch.transcriber import Transcriber
from myna.inference.port import ModelSource
from myna.runtime.errors import Refusal
from myna.server.dialects import models as models_handlers
from myna.server.dialects.base import Entry
from myna.server.dialects.deepgram import description as deepgram_description
from myna.server.dialects.deepgram import flux
from myna.server.dialects.deepgram import live as deepgram_live
from myna.server.dialects.deepgram.grant import GrantHandler
from myna.server.dialects.deepgram.jobs import DeepgramJobs, JobStatus
from myna.server.dialects.deepgram.prerecorded import Prerecorded
from myna.server.dialects.deepgram.status import StatusHandlers
from myna.server.dialects.native.dialect import NativeEntry
from myna.server.dialects.openai import description as openai_description
from myna.server.dialects.openai import realtime_entry
from myna.server.dialects.openai.client_secrets import ClientSecrets
from myna.server.dialects.openai.errors import openai_response
from myna.server.dialects.openai.transcriptions import PATH as TRANSCRIPTIONS
from myna.server.dialects.openai.transcriptions import Transcriptions
from myna.server.dialects.reflector import description as reflector_description
from myna.server.dialects.reflector import requests as reflector
from myna.server.dialects.reflector.diarize import PATH as DIARIZE
from myna.server.dialects.reflector.diarize import Diarize
from myna.server.dialects.reflector.errors import reflector_response
from myna.server.dialects.reflector.forms import TRANSCRIBE, ReflectorForms
from myna.server.dialects.reflector.from_url import FROM_URL, FromUrl
from myna.server.dialects.reflector.pad import PATH as PAD
from myna.server.dialects.reflector.pad import Pad
from myna.server.dialects.shared_errors import shared_response
from myna.server.http import docs_page, health, openapi
from myna.server.http.errors import ErrorFormats, VendorAddresses
from myna.server.http.file_requests import FileRequests
from myna.server.http.file_work import FileWork
from myna.server.http.health import HealthHandlers
from myna.server.http.intake import Intake
from myna.server.http.request_id import REQUEST_ID
from myna.server.keys import Authentication
from myna.server.operations.front_admission import FrontAdmission
from myna.server.operations.gauges import Gauges
from myna.server.operations.overview import Overview
from myna.server.settings import Settings
from myna.wire import messages as wire

RESUME_PREFIX: web.AppKey[str] = web.AppKey("resume prefix")
"""Key, in a server's application, of what its tokens for resumption begin with."""
_ANYWHERE = ("/v1/auth/", "/v1/realtime/")
"""Beginnings of the addresses with POST that have no files."""
_JOBS = "/v1/jobs/"


def has_files(method: str, path: str) -> bool:
    """Return whether requests of this method and path are about files: transcriptions, and the jobs that make them."""
    return (method == "POST" and not path.startswith(_ANYWHERE)) or path.startswith(_JOBS)


EntryOf = Callable[[web.Request, Settings, Authentication], Entry]


def _native(request: web.Request, settings: Settings, _authentication: Authentication) -> Entry:
    return NativeEntry(secrets.token_hex(8), settings, request.app[RESUME_PREFIX])


def _deepgram(request: web.Request, settings: Settings, _authentication: Authentication) -> Entry:
    return deepgram_live.DeepgramEntry(request[REQUEST_ID], settings)


def _flux(request: web.Request, settings: Settings, _authentication: Authentication) -> Entry:
    return flux.FluxEntry(request[REQUEST_ID], settings)


def _realtime(request: web.Request, settings: Settings, authentication: Authentication) -> Entry:
    return realtime_entry.entry_of(request[REQUEST_ID], settings, request.headers, authentication)


LIVE: Mapping[str, EntryOf] = {
    wire.PATH: _native,
    deepgram_live.PATH: _deepgram,
    flux.PATH: _flux,
    realtime_entry.PATH: _realtime,
}
"""The entry of a request for a live stream, by its address."""

VENDORS = (
    VendorAddresses(
        ("/v1/listen", "/v2/"),
        base_address="the base address of Deepgram's clients is that of the server, without a path",
    ),
    VendorAddresses(
        ("/v1/audio/", "/v1/realtime"), openai_response, base_address="the base address of OpenAI's clients ends in /v1"
    ),
    VendorAddresses((f"{reflector.PREFIX}/", FROM_URL, DIARIZE, TRANSCRIBE, PAD), reflector_response),
)


def error_formats(settings: Settings) -> ErrorFormats:
    """Return the error formats of a server with these settings."""

    def audio(refusal: Refusal, request: web.Request) -> web.Response:
        made = reflector_response if _is_reflectors(request, settings) else openai_response
        return made(refusal, request)

    formats = {prefix: vendor.error_format for vendor in VENDORS for prefix in vendor.prefixes if vendor.error_format}
    return ErrorFormats(shared_response, formats | {TRANSCRIPTIONS: audio})


def _is_reflectors(request: web.Request, settings: Settings) -> bool:
    return reflector.is_theirs(request.path, request.headers.get("Host", ""), settings.reflector_hosts)


@functools.cache
def description() -> openapi.Schema:
    """Return the OpenAPI document of every route."""
    return openapi.document(
        (
            docs_page.DESCRIPTION,
            health.DESCRIPTION,
            models_handlers.DESCRIPTION,
            deepgram_description.DESCRIPTION,
            openai_description.DESCRIPTION,
            reflector_description.DESCRIPTION,
        )
    )


def add_http_routes(
    app: web.Application,
    settings: Settings,
    overview: Overview,
    models: ModelSource,
    transcriber: Transcriber,
    authentication: Authentication,
    admission: FrontAdmission,
    gauges: Gauges,
    gate: AddressGate,
    jobs: JobRunner,
    intake: Intake,
) -> None:
    """Add the routes of every vendor that are not live streams, and let the job runner work for them."""
    requests = FileRequests(settings, authentication, admission, intake, jobs.unfinished)
    work = FileWork(settings, models, transcriber, gate, intake)
    jobs.work = DeepgramJobs(work, intake)

    openais, reflectors = Transcriptions(requests, work), ReflectorForms(requests, work)

    async def transcriptions(request: web.Request) -> web.StreamResponse:
        handlers = reflectors if _is_reflectors(request, settings) else openais
        return await handlers.transcriptions(request)

    app.router.add_post(TRANSCRIPTIONS, transcriptions)
    for handlers in (
        HealthHandlers(overview, models, admission, gauges),
        StatusHandlers(overview, models, admission),
        models_handlers.ModelHandlers(models, authentication),
        GrantHandler(authentication),
        ClientSecrets(authentication),
        work,
        Prerecorded(requests, work, jobs, gate, intake),
        JobStatus(requests, jobs),
        openais,
        reflectors,
        FromUrl(requests, work),
        Diarize(requests, work),
        Pad(requests, work),
    ):
        handlers.add_to(app)
    for prefix in ("", reflector.PREFIX):
        app.router.add_get(f"{prefix}{openapi.PATH}", openapi.handler(description()))
        app.router.add_get(f"{prefix}{docs_page.ADDRESS}", docs_page.handler(description()))
