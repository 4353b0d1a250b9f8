"""The composition root: the one place that names concrete classes and ties them together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path

import structlog
import uvloop
from aiohttp import web

from myna import __version__
from myna.batch.disk import remove_strays
from myna.batch.address_gate import AddressGate
from myna.runtime.threads import on_thread
from myna.server import log as logs
from myna.server.http import page
from myna.server.http.wrong_addresses import ADDRESSES, Addresses
from myna.server.operations.admission import Admission
from myna.server.keys import Authentication
from myna.server.settings import Settings
from myna.runtime.errors import ConfigurationError
from myna.server.websocket.connection import FAREWELL_S, FINALS_S
from myna.server.http.connections import Connections, ConnectionLimits, descriptor_limit, raise_descriptor_limit
from myna.server.http.cross_site import CrossSite
from myna.media.pool import DecoderPool
from myna.runtime.descriptors import descriptors_left
from myna.server.dialects import registry
from myna.runtime.errors import DialectError
from myna.server.http.errors import ERROR_FORMATS
from myna.server.http.request_id import send_request_id
from myna.server.http.intake import Intake
from myna.batch.job_runner import JobRunner
from myna.server.operations.gauges import Gauges
from myna.server.operations.metrics import Metrics
from myna.server.http.middlewares import Router, answered
from myna.inference.models import Models, ModelSettings
from myna.runtime.deadlines import CLOCK
from myna.server.operations.loop_monitor import LoopMonitor
from myna.server.services import Services
from myna.server.websocket.revocation import watch
from myna.batch.storage import STRAY_S, UPLOADS, Doubt, probe_uploads
from myna.runtime.supervisor import Supervisor
from myna.batch.transcriber import Hearing, Transcriber
from myna.server.dialects.defaults import default_policy
from myna.server.websocket.upgrade import Upgrade
from myna.inference.workers.vad_worker import VadWorker
from myna.inference.engines.catalogue import Catalogue
from myna.runtime.memory import TRIM_EVERY_S, give_back, keep_steady
from myna.streaming.speech.silero import SileroVad

log = structlog.get_logger()

_DRAINED_LOOK_S = 0.05
_STOPPED_AT_ONCE = 130
"""Exit status of a server that was told twice to stop: that of a program ended by SIGINT."""


class Server:
    """A running server; `url` says where."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        services: Services,
        models: Models,
        authentication: Authentication,
        loop_monitor: LoopMonitor,
        supervisor: Supervisor,
    ) -> None:
        self.settings = settings
        self.services = services
        self.models = models
        self.loop_monitor = loop_monitor
        self.admission = Admission(settings, services.metrics, loop_monitor)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        gate = AddressGate(settings.allowed_networks)
        self.transcriber = transcriber = Transcriber(
            Hearing(
                services.decoders,
                services.vad,
                functools.partial(default_policy, settings),
                lambda repeated: services.metrics.speech_repeated(heard=repeated.heard),
            )
        )
        self.supervisor = supervisor
        self.jobs = JobRunner(settings.data / "jobs", gate, supervisor)
        self._authentication = authentication
        self._upgrade = Upgrade(settings, services, models, authentication, self.admission, gate)
        self.app = web.Application(middlewares=[answered])
        self.app._router = Router()  # the argument for it is deprecated, without another way
        self.app[CLOCK] = services.clock
        CrossSite(settings, host, keyless=not authentication.required).add_to(self.app)
        self.app.on_response_prepare.append(send_request_id)
        gauges = Gauges(services.streams, services.vad, services.decoders, models, transcriber, self.admission, loop_monitor, self.jobs, supervisor)
        services.metrics.look_up(gauges.read)
        self.disk = Doubt(
            "disk", lambda: on_thread(functools.partial(probe_uploads, settings.min_free_mb << 20)), supervisor
        )
        intake = Intake(settings, services.metrics, self.jobs.taken, self.disk)
        registry.add_http_routes(
            self.app, settings, services, models, transcriber, authentication, self.admission, gauges, gate, self.jobs, intake
        )
        page.add_to(self.app)
        for path, entry_of in registry.LIVE.items():
            self.app.router.add_get(path, functools.partial(self._live, entry_of))
        self.app[ERROR_FORMATS] = registry.ERRORS
        self.app[ADDRESSES] = Addresses(self.app, registry.VENDORS)

    async def drain(self) -> None:
        """Take nothing new, let streams and files come to their end, and end those that have not in time, finals first."""
        self.admission.draining = True
        streams = self.services.streams
        log.info("draining", streams=len(streams), files=self.transcriber.active, drain_s=self.settings.drain_s)
        if await self._empty_within(self.settings.drain_s):
            return
        for stream in list(streams.values()):
            stream.retire(DialectError("shutting_down", "the server is stopping", finals_first=True))
        await self._empty_within(FINALS_S + FAREWELL_S)

    def read_keys(self) -> None:
        """Read the key file again."""
        self._authentication.read_again()

    async def _empty_within(self, patience_s: float) -> bool:
        until = self.services.clock() + patience_s
        while self.services.streams or self.transcriber.active:
            if self.services.clock() >= until:
                return False
            await asyncio.sleep(_DRAINED_LOOK_S)
        return True

    async def _live(self, entry_of: registry.EntryOf, request: web.Request) -> web.StreamResponse:
        return await self._upgrade.serve(request, entry_of(request, self.settings, self._authentication))


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Run a server on the current event loop.

    Raises `ConfigurationError` if it cannot listen, `EngineUnavailableError` if a model is missing, `DecoderLostError` if no
    process that decodes media can be started.
    """
    authentication = Authentication(settings.keys)
    listener = _listen(settings)
    _check_open(settings, listener)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.close)
        metrics = Metrics()
        loop_monitor = LoopMonitor(metrics.lagged)
        supervisor.watch("descriptors", functools.partial(descriptors_left, listener.fileno()))
        supervisor.run("pulse", loop_monitor.beat)
        supervisor.run("memory", _give_memory_back)
        decoders = DecoderPool(supervisor, loop_monitor.awake)
        decoders.start()
        vad = VadWorker(SileroVad(), supervisor, loop_monitor.awake)
        stack.push_async_callback(vad.close)
        services = Services(vad, metrics, decoders, settings.max_backlog_s, settings.spool_mb << 20, loop_monitor.awake)
        catalogue = Catalogue(settings.models, settings.model, settings.aliases, settings.languages)
        wanted = ModelSettings(**{field.name: getattr(settings, field.name) for field in fields(ModelSettings)})
        models = Models(catalogue, wanted, metrics.on_step, supervisor, loop_monitor.awake)
        stack.push_async_callback(models.close)
        await models.start()
        await decoders.ready()
        server = Server(settings, listener, services, models, authentication, loop_monitor, supervisor)
        if authentication.required:
            supervisor.run("keys", lambda: watch(authentication, services))
        await on_thread(functools.partial(remove_strays, Path(tempfile.gettempdir()), UPLOADS, STRAY_S))
        server.jobs.start()
        stack.push_async_callback(server.jobs.close)
        stack.push_async_callback(server.disk.close)
        runner = web.AppRunner(server.app, shutdown_timeout=5.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        connections = Connections(
            ConnectionLimits(
                settings.request_timeout_s,
                settings.keepalive_s,
                settings.max_unauthenticated,
                settings.max_unfinished_mb << 20,
                descriptor_limit(),
            ),
            metrics.connection_dropped,
            loop_monitor.awake,
        )
        connections.start()
        stack.callback(connections.close)
        protocol = functools.partial(connections.protocol, runner.server)
        listening = await asyncio.get_running_loop().create_server(protocol, sock=listener)
        stack.callback(listening.close)
        log.info("listening", url=server.url, model=catalogue.default, version=__version__)
        if settings.keys is None:
            log.info("no API keys: whoever reaches this address may transcribe; `myna keys add NAME` makes one")
        stack.callback(_break_off, services)
        yield server


async def _give_memory_back() -> None:
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        await asyncio.to_thread(give_back)


def _break_off(services: Services) -> None:
    for stream in list(services.streams.values()):
        stream.break_off(DialectError("shutting_down", "the server is stopping"))


def serve(settings: Settings) -> None:
    """Run a server until SIGINT or SIGTERM."""
    os.umask(0o077)  # what the server and its workers write is for their user alone
    logs.configure(settings.log_level, settings.log_format)
    keep_steady(trimming=False)
    raise_descriptor_limit()
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        loop.add_signal_handler(number, stop.set)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # would end the process, and every stream with it
        loop.add_signal_handler(number, _on_other_signal, number, None)
    async with running(settings) as server:
        loop.add_signal_handler(signal.SIGHUP, _on_other_signal, signal.SIGHUP, server)
        gc.collect()
        gc.freeze()  # what there is now is here to stay: walking it again and again would hold up the loop
        await stop.wait()
        stop.clear()
        drained = asyncio.create_task(server.drain(), name="drain")
        again = asyncio.create_task(stop.wait(), name="second signal")
        await asyncio.wait([drained, again], return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            log.warning("stopping at once: a second signal")
            os._exit(_STOPPED_AT_ONCE)  # workers end when their sockets do; the jobs' database survives worse
        again.cancel()
        if (error := drained.exception()) is not None:
            log.error("draining failed; streams end now", exc_info=error)
        log.info("stopping")


def _on_other_signal(number: signal.Signals, server: Server | None) -> None:
    """Read the keys again at SIGHUP, as programs that run for long do; do nothing at others."""
    if server is None:
        log.info("a signal was ignored; SIGTERM ends the server", signal=number.name)
    else:
        log.info("reading the keys again", signal=number.name)
        server.read_keys()


def _check_open(settings: Settings, listener: socket.socket) -> None:
    """Refuse to be open to other machines by oversight."""
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    if settings.keys is None and not address.is_loopback and not settings.allow_anonymous:
        listener.close()
        raise ConfigurationError(
            f"host {settings.host} can be reached from other machines, and there are no API keys: make one with `myna keys"
            " add NAME` and name its file with --keys, or let everybody in with --allow-anonymous"
        )


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
