"""The composition root: the one place that names concrete classes and ties them together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator

import structlog
import uvloop
from aiohttp import WSCloseCode, web

from myna import __version__
from myna.server import log as logs
from myna.server.config import ConfigurationError, Settings
from myna.server.connection import Connection
from myna.server.dialects.base import DialectError
from myna.server.dialects.native import NativeDialect, defaults
from myna.server.engine import EngineWorker
from myna.server.live import Services
from myna.server.voice import VoiceActivity
from myna.streaming import wire
from myna.streaming.engines import registry
from myna.streaming.vad import SileroVad

log = structlog.get_logger()


class Server:
    """A running server; `url` says where."""

    def __init__(self, settings: Settings, listener: socket.socket, services: Services) -> None:
        self.settings = settings
        self.services = services
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        policy = defaults(
            settings.endpointing_ms, settings.max_utterance_s, settings.context_s, settings.interim_every_s
        )
        self._policy = policy
        self.app = web.Application()
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get(wire.PATH, self._native)

    async def _health(self, _request: web.Request) -> web.Response:
        engine = self.services.engine
        return web.json_response(
            {
                "status": "ok" if engine.alive else "degraded",
                "version": __version__,
                "model": engine.info.name,
                "streams": len(self.services.streams),
            },
            status=200 if engine.alive else 503,
        )

    async def _native(self, request: web.Request) -> web.StreamResponse:
        form = request.query.get("format", wire.Format.JSON)
        if form not in list(wire.Format):
            known = ", ".join(wire.Format)
            return web.json_response(
                {
                    "error": {
                        "code": "unknown_format",
                        "message": f"format {form!r} is not known; there are: {known}",
                    }
                },
                status=400,
            )
        dialect = NativeDialect(wire.Format(form), self._policy, self.services.engine.info)
        return await Connection(dialect, self.services, self.settings).run(request)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Run a server on the current event loop.

    Raises `ConfigurationError` if it cannot listen, `EngineUnavailableError` if a model is missing.
    """
    listener = _listen(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        registry.check(settings.engine)
        voice = VoiceActivity(SileroVad())
        stack.push_async_callback(voice.close)
        engine = EngineWorker(
            settings.engine,
            settings.lanes or os.cpu_count() or 1,
            lambda epoch: services.on_engine_restart(epoch),
        )
        services = Services(engine, voice, settings.max_backlog_s)
        stack.push_async_callback(engine.close)
        await engine.start()
        server = Server(settings, listener, services)
        runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=5.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener).start()
        log.info("listening", url=server.url, model=engine.info.name, version=__version__)
        stack.callback(_break_off, services)
        yield server


def _break_off(services: Services) -> None:
    for stream in list(services.streams.values()):
        stream.break_off(DialectError("shutting_down", "the server is stopping", WSCloseCode.GOING_AWAY))


def serve(settings: Settings) -> None:
    """Run a server until SIGINT or SIGTERM."""
    logs.configure(settings.log_level, settings.log_format)
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(settings):
        await stop.wait()
        log.info("stopping")


def _listen(settings: Settings) -> socket.socket:
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=512)
    except socket.gaierror as error:
        raise ConfigurationError(f"host {settings.host!r} is no address of this machine: {error.strerror}") from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {where}: {os.strerror(error.errno or 0)}; choose another with --port or MYNA_PORT"
        ) from error
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener
