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
from myna.server.dialects.native import NativeDialect
from myna.server.live import Services
from myna.server.models import ModelBusyError, Models
from myna.server.voice import VoiceActivity
from myna.streaming import wire
from myna.streaming.engines.base import EngineUnavailableError
from myna.streaming.engines.catalogue import Catalogue, Model, UnknownModelError
from myna.streaming.vad import SileroVad

log = structlog.get_logger()


class Server:
    """A running server; `url` says where."""

    def __init__(self, settings: Settings, listener: socket.socket, services: Services, models: Models) -> None:
        self.settings = settings
        self.services = services
        self.models = models
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.app = web.Application()
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get(wire.PATH, self._native)

    async def _health(self, _request: web.Request) -> web.Response:
        alive = all(worker.alive for worker in self.models.workers)
        return web.json_response(
            {
                "status": "ok" if alive else "degraded",
                "version": __version__,
                "model": self.models.catalogue.default,
                "streams": len(self.services.streams),
            },
            status=200 if alive else 503,
        )

    async def _models(self, _request: web.Request) -> web.Response:
        catalogue = self.models.catalogue
        usable, broken = await asyncio.to_thread(catalogue.models)
        described = [self._described(model) for model in usable.values()]
        return web.json_response({"object": "list", "data": described, "unusable": broken})

    def _described(self, model: Model) -> dict[str, object]:
        catalogue = self.models.catalogue
        return {
            "id": model.name,
            "object": "model",
            "owned_by": "myna",
            "default": model.name == catalogue.default,
            "aliases": sorted(alias for alias, name in catalogue.aliases.items() if name == model.name),
            "engine": model.engine,
            "languages": list(model.languages),
            "mode": model.mode,
            "version": model.version,
            "uuid": model.uuid,
            "loaded": self.models.loaded(model),
        }

    async def _native(self, request: web.Request) -> web.StreamResponse:
        form = request.query.get("format", wire.Format.JSON)
        if form not in list(wire.Format):
            known = ", ".join(wire.Format)
            return _refusal(400, "unknown_format", f"format {form!r} is not known; there are: {known}")
        try:
            model = await asyncio.to_thread(self.models.catalogue.find, request.query.get("model"))
            async with self.models.serving(model) as engine:
                dialect = NativeDialect(wire.Format(form), self.settings, engine.info)
                return await Connection(dialect, engine, self.services, self.settings).run(request)
        except UnknownModelError as error:
            return _refusal(400, "unknown_model", str(error))
        except EngineUnavailableError as error:
            return _refusal(400, "unusable_model", str(error))
        except ModelBusyError as error:
            return _refusal(503, "model_busy", str(error), {"Retry-After": str(error.retry_s)})


def _refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Run a server on the current event loop.

    Raises `ConfigurationError` if it cannot listen, `EngineUnavailableError` if a model is missing.
    """
    listener = _listen(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        voice = VoiceActivity(SileroVad())
        stack.push_async_callback(voice.close)
        services = Services(voice, settings.max_backlog_s)
        catalogue = Catalogue(settings.models, settings.model, settings.aliases, settings.languages)
        models = Models(catalogue, settings, services.on_engine_restart)
        stack.push_async_callback(models.close)
        await models.start()
        server = Server(settings, listener, services, models)
        runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=5.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener).start()
        log.info("listening", url=server.url, model=catalogue.default, version=__version__)
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
