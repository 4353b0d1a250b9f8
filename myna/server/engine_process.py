"""The engine process: models, their workers, the queue of jobs and the admission of streams, for all fronts of a server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator

import structlog

from myna.inference.engines.survey import advice, survey
from myna.runtime.memory import trim_regularly
from myna.runtime.supervisor import Supervisor
from myna.server.backend import local_backend
from myna.server.fronts.engine_node import EngineNode
from myna.server.fronts.joint_overview import JointOverview
from myna.server.fronts.link import BUFFER_BYTES
from myna.server.fronts.peers import PeerListener
from myna.server.fronts.role import Role
from myna.server.operations.loop_monitor import LoopMonitor
from myna.server.operations.metrics import Metrics
from myna.server.operations.overview import Overview

log = structlog.get_logger()


class EngineServer:
    """A running engine process."""

    def __init__(self, node: EngineNode) -> None:
        self._node = node

    async def drain(self) -> None:
        """Wait until the fronts have drained and detached. They have, unless their parent was killed."""
        await self._node.deserted()

    def reload_keys(self) -> None:
        """Do nothing: the fronts check keys."""


@contextlib.asynccontextmanager
async def engine_running(role: Role) -> AsyncIterator[EngineServer]:
    """Run the engine process on the current event loop. Raises `EngineUnavailableError` and `ConfigurationError`."""
    settings = role.read_settings()
    async with contextlib.AsyncExitStack() as stack:
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.close)
        metrics = Metrics()
        loop_monitor = LoopMonitor(metrics.lagged)
        supervisor.run("loop-monitor", loop_monitor.run)
        supervisor.run("memory", trim_regularly)
        backend = await local_backend(settings, metrics, loop_monitor, supervisor, stack)
        node = EngineNode(backend.models, backend.admission, supervisor, role.token, loop_monitor.awake)
        supervisor.run("state", node.tell_state)
        overview = JointOverview(Overview(role.name, metrics, lambda: supervisor.failing), {})
        peers = PeerListener(role.peer(role.number), overview.answer, _refuse)
        stack.callback(peers.close)
        supervisor.run("peers", peers.run)
        role.link().unlink(missing_ok=True)  # of an engine process that was killed
        listening = await asyncio.start_unix_server(node.welcome, str(role.link()), limit=BUFFER_BYTES)
        stack.callback(listening.close)
        catalogue = backend.models.catalogue
        log.info("engine process ready", model=catalogue.default)
        log.info(await asyncio.to_thread(functools.partial(advice, survey(catalogue), catalogue.default)))
        yield EngineServer(node)


async def _refuse(connection: socket.socket, _data: bytes) -> None:
    connection.close()
    log.error("a connection was passed to the engine process, which serves no clients")
