"""The upgrade of an HTTP request to a live stream, for every dialect: authentication, model, admission."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from aiohttp import web

from myna.batch.address_gate import AddressGate
from myna.batch.addresses import network_of
from myna.batch.callback import CallbackSender
from myna.inference.port import ModelPool, ModelSource
from myna.runtime.errors import Refusal
from myna.server.dialects.base import Entry, Resume
from myna.server.http.connections import authenticated
from myna.server.http.errors import refusal_response
from myna.server.http.intake import share_of
from myna.server.http.request_log import KIND
from myna.server.keys import Authentication, Identity, Scope, credential
from myna.server.operations.front_admission import FrontAdmission
from myna.server.services import Services
from myna.server.serving import NO_DIARIZER, diarizer_of, engine_for
from myna.server.settings import Settings
from myna.server.websocket.connection import Connection
from myna.server.websocket.writer import Delivery


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Upgrades requests of one server."""

    settings: Settings
    services: Services
    models: ModelSource
    authentication: Authentication
    admission: FrontAdmission
    gate: AddressGate

    async def serve(self, request: web.Request, entry: Entry) -> web.StreamResponse:
        """Serve a stream to its end, or refuse it before the upgrade."""
        request[KIND] = "stream"
        try:
            return await self._serve(request, entry)
        except Refusal as refusal:
            refused = entry.refused(refusal)
            return refusal_response(refusal, refused.body, refused.headers)

    async def _serve(self, request: web.Request, entry: Entry) -> web.StreamResponse:
        shown = credential(request.headers)
        identity = self.authentication.identify(shown, Scope.TRANSCRIBE, client_secrets=entry.takes_client_secrets)
        authenticated(request)
        wanted = entry.read(request.query.items())
        if entry.resume is not None:
            return await self._resume(request, entry.resume, identity)
        async with contextlib.AsyncExitStack() as stack:
            delivery: Delivery | None = None
            if entry.callback is not None:
                try:
                    callback = replace(entry.callback, key_name=identity.name)
                    sender = CallbackSender(callback, self.gate, share_of(identity, request))
                except ValueError as error:
                    raise Refusal(400, "bad_callback", f"callback: {error}.") from error
                delivery = (await stack.enter_async_context(sender)).send
            model, engine = await stack.enter_async_context(engine_for(self.models, wanted, serves="streaming"))
            diarizer = await self._diarizer(stack) if entry.speakers else None
            peer = network_of(request.remote or "")
            admitted = self.admission.stream(entry.name, identity, peer, engine, entry.channels, diarizer)
            place = await stack.enter_async_context(admitted)
            connection = Connection(
                entry.name,
                identity,
                entry.dialect(model, engine.info, diarizer.info.uuid if diarizer else ""),
                place,
                self.services,
                self.settings,
                subprotocol=shown.subprotocol if shown else None,
                delivery=delivery,
                diarizer=diarizer,
            )
            _check_upgrade(request)
            return await connection.run(request)

    async def _diarizer(self, stack: contextlib.AsyncExitStack) -> ModelPool | None:
        """Return the engine that tells speakers apart; None if there is none and the settings allow an answer without."""
        try:
            return await stack.enter_async_context(diarizer_of(self.models))
        except Refusal as refusal:
            if refusal.code != NO_DIARIZER or self.settings.without_diarizer == "refuse":
                raise
            return None

    async def _resume(self, request: web.Request, resume: Resume, identity: Identity) -> web.StreamResponse:
        stream = self.services.resumable.get(resume.token)
        if stream is None or stream.identity.id != identity.id:
            raise Refusal(404, "unknown_stream", "No stream has this token: it has ended, or was given up.")
        if not stream.can_resume(resume.after):
            raise Refusal(
                410,
                "too_late",
                f"The messages after number {resume.after} are no longer kept: start another stream.",
            )
        _check_upgrade(request)
        return await stream.resume(request, resume.after)


def _check_upgrade(request: web.Request) -> None:
    try:
        ready = bool(web.WebSocketResponse().can_prepare(request))
    except ValueError:  # a header that is not UTF-8, which aiohttp would quote
        ready = False
    if not ready:
        raise Refusal(
            426,
            "upgrade_required",
            "This endpoint requires a WebSocket upgrade.",
        )
