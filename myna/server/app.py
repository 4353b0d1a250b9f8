"""The composition root: the one module that names the concrete classes and connects them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog
from aiohttp import web

from myna import __version__
from myna.batch.address_gate import AddressGate
from myna.batch.disk import remove_strays
from myna.batch.job_runner import JobRunner
from myna.batch.storage import STRAY_S, UPLOADS, Doubt, probe_uploads
from myna.batch.transcriber import Hearing, Transcriber
from myna.inference.engines.survey import advice, survey
from myna.inference.workers.vad_worker import VadWorker
from myna.media.pool import DecoderPool
from myna.runtime.deadlines import CLOCK
from myna.runtime.descriptors import descriptor_limit, descriptors_left
from myna.runtime.errors import DialectError
from myna.runtime.memory import trim_regularly
from myna.runtime.supervisor import Supervisor
from myna.runtime.threads import on_thread
from myna.server.backend import Backend, linked_backend, local_backend
from myna.server.dialects import registry
from myna.server.dialects.defaults import default_policy
from myna.server.fronts.joint_overview import JointOverview
from myna.server.fronts.peers import PeerListener
from myna.server.fronts.role import FILES, Role, name_of
from myna.server.fronts.routing import destination_of, no_files, resume_prefix
from myna.server.http import page
from myna.server.http.connection_limits import ConnectionLimits, Connections
from myna.server.http.connections import WatchedConnection
from myna.server.http.cross_site import CrossSite
from myna.server.http.errors import ERROR_FORMATS
from myna.server.http.intake import Intake
from myna.server.http.middlewares import Router, answered
from myna.server.http.request_id import send_request_id
from myna.server.http.request_log import logging_to
from myna.server.http.wrong_addresses import ADDRESSES, Addresses
from myna.server.keys import Authentication
from myna.server.listener import listen
from myna.server.operations.drain import drain
from myna.server.operations.gauges import Gauges
from myna.server.operations.loop_monitor import LoopMonitor
from myna.server.operations.metrics import Metrics
from myna.server.operations.overview import Overview
from myna.server.services import Services
from myna.server.settings import Settings
from myna.server.websocket.client_socket import CLOSE_TIMEOUT_S
from myna.server.websocket.connection import FINALS_S
from myna.server.websocket.revocation import watch
from myna.server.websocket.upgrade import Upgrade
from myna.streaming.speech.silero import SileroVad

log = structlog.get_logger()


class Server:
    """A running server at `url`."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        services: Services,
        backend: Backend,
        authentication: Authentication,
        loop_monitor: LoopMonitor,
        supervisor: Supervisor,
        role: Role | None = None,
    ) -> None:
        self.settings = settings
        self.services = services
        self.models = models = backend.models
        self.loop_monitor = loop_monitor
        self.admission = backend.admission
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        gate = AddressGate(settings.allowed_networks)
        self.transcriber = transcriber = Transcriber(
            Hearing(
                services.decoders,
                services.vad,
                functools.partial(default_policy, settings),
                services.metrics.speech_repeated,
            )
        )
        self.supervisor = supervisor
        self.jobs = JobRunner(settings.data / "jobs", gate, supervisor)
        self._authentication = authentication
        self._upgrade = Upgrade(settings, services, models, authentication, self.admission, gate)
        elsewhere = [no_files] if role is not None and role.number != FILES else []
        self.app = web.Application(middlewares=[logging_to(services.metrics), answered, *elsewhere])
        self.app._router = Router()  # the constructor's argument is deprecated, and there is no other way
        self.app[CLOCK] = services.clock
        self.app[registry.RESUME_PREFIX] = "" if role is None else resume_prefix(role)
        CrossSite(settings, host, keyless=not authentication.required).add_to(self.app)
        self.app.on_response_prepare.append(send_request_id)
        gauges = Gauges(
            services.streams,
            services.vad,
            services.decoders,
            transcriber,
            self.admission,
            loop_monitor,
            self.jobs,
            supervisor,
        )
        services.metrics.add_gauges(gauges.read)
        self.overview = overview = Overview(
            "server" if role is None else role.name,
            services.metrics,
            lambda: gauges.failing,
            lambda: [stream.path for stream in services.streams.values()],
            lambda: transcriber.active,
        )
        if role is not None:
            peers = {name_of(number): role.peer(number) for number in role.others}
            self.overview = overview = JointOverview(overview, peers)
        self.disk = Doubt(
            "disk", lambda: on_thread(functools.partial(probe_uploads, settings.min_free_mb << 20)), supervisor
        )
        intake = Intake(settings, services.metrics, self.jobs.taken, self.disk)
        registry.add_http_routes(
            self.app,
            settings,
            overview,
            models,
            transcriber,
            authentication,
            self.admission,
            gauges,
            gate,
            self.jobs,
            intake,
        )
        page.add_to(self.app)
        for path, entry_of in registry.LIVE.items():
            self.app.router.add_get(path, functools.partial(self._live, entry_of))
        self.app[ERROR_FORMATS] = registry.error_formats(settings)
        self.app[ADDRESSES] = Addresses(self.app, registry.VENDORS)

    async def drain(self) -> None:
        """Take no new work and wait for streams and files; see `myna.server.operations.drain`."""
        await drain(
            self.admission,
            self.services.streams,
            lambda: self.transcriber.active,
            self.services.clock,
            drain_s=self.settings.drain_s,
            last_finals_s=FINALS_S + CLOSE_TIMEOUT_S,
        )

    def reload_keys(self) -> None:
        """Read the key file again."""
        self._authentication.reload()

    async def _live(self, entry_of: registry.EntryOf, request: web.Request) -> web.StreamResponse:
        return await self._upgrade.serve(request, entry_of(request, self.settings, self._authentication))


@contextlib.asynccontextmanager
async def running(settings: Settings, role: Role | None = None) -> AsyncIterator[Server]:
    """Run a server on the current event loop; with a `role`, one front of a server with several.

    Raises `ConfigurationError` if it cannot listen, `EngineUnavailableError` if a model is missing, and `DecoderLostError` if
    no decoder process can be started.
    """
    authentication = Authentication(settings.keys, None if role is None else role.secret)
    has_files, accepting = role is None or role.number == FILES, role is None or role.number != FILES
    listener = listen(settings, shared=role is not None, accepting=accepting)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.close)
        metrics = Metrics()
        loop_monitor = LoopMonitor(metrics.lagged)
        supervisor.watch("descriptors", functools.partial(descriptors_left, listener.fileno()))
        supervisor.run("loop-monitor", loop_monitor.run)
        supervisor.run("memory", trim_regularly)
        decoders = DecoderPool(supervisor, loop_monitor.awake)
        decoders.start()
        vad = VadWorker(SileroVad(), supervisor, loop_monitor.awake)
        stack.push_async_callback(vad.close)
        services = Services(vad, metrics, decoders, settings.max_backlog_s, settings.spool_mb << 20, loop_monitor.awake)
        backend = (
            await local_backend(settings, metrics, loop_monitor, supervisor, stack)
            if role is None
            else await linked_backend(role, settings, metrics, loop_monitor, supervisor, stack)
        )
        await decoders.ready()
        server = Server(settings, listener, services, backend, authentication, loop_monitor, supervisor, role)
        if authentication.required:
            supervisor.run("keys", lambda: watch(authentication, services))
        if has_files:
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
        protocol = functools.partial(WatchedConnection, connections, runner.server)
        if role is not None:
            protocol = functools.partial(protocol, functools.partial(destination_of, role=role))
            await _join_peers(server, role, protocol, supervisor, stack)
        if accepting:
            listening = await asyncio.get_running_loop().create_server(protocol, sock=listener)
            stack.callback(listening.close)
        if role is None:
            await _tell_start(server)
        stack.callback(_abort_streams, services)
        yield server


async def _join_peers(
    server: Server,
    role: Role,
    protocol: Callable[..., WatchedConnection],
    supervisor: Supervisor,
    stack: contextlib.AsyncExitStack,
) -> None:
    """Take the connections that the other processes of the server pass on, and answer their questions."""

    async def take(connection: socket.socket, begun: bytes) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(functools.partial(protocol, begun=begun), connection)

    assert isinstance(server.overview, JointOverview)
    peers = PeerListener(role.peer(role.number), server.overview.answer, take)
    stack.callback(peers.close)
    supervisor.run("peers", peers.run)


async def _tell_start(server: Server) -> None:
    catalogue = server.models.catalogue
    log.info("listening", url=server.url, model=catalogue.default, version=__version__)
    log.info(await asyncio.to_thread(lambda: advice(survey(catalogue), catalogue.default)))
    if server.settings.keys is None:
        log.info("no API keys: any client that reaches this address may transcribe; `myna keys add NAME` makes a key")


def _abort_streams(services: Services) -> None:
    for stream in list(services.streams.values()):
        stream.abort(DialectError("shutting_down", "the server is stopping"))
