"""Where a front's models run: in workers of its own process, or in the engine process that several fronts share."""

from __future__ import annotations

import asyncio
import functools
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields

from myna.inference.folder_watch import FolderWatch
from myna.inference.models import Models, ModelSettings
from myna.inference.port import ModelSource
from myna.runtime.supervisor import Supervisor
from myna.server.fronts.engine_link import EngineLink
from myna.server.fronts.link import BUFFER_BYTES
from myna.server.fronts.linked_models import LinkedAdmission, LinkedModels
from myna.server.fronts.role import Role
from myna.server.operations.admission import Admission
from myna.server.operations.front_admission import FrontAdmission
from myna.server.operations.loop_monitor import LoopMonitor
from myna.server.operations.metrics import Metrics
from myna.server.operations.model_gauges import ModelGauges
from myna.server.serving import catalogue_of
from myna.server.settings import Settings


@dataclass(frozen=True, slots=True)
class Backend:
    """The models of a front, and what admits its streams."""

    models: ModelSource
    admission: FrontAdmission


@dataclass(frozen=True, slots=True)
class LocalBackend(Backend):
    """The models of this process."""

    models: Models
    admission: Admission


async def local_backend(
    settings: Settings, metrics: Metrics, loop_monitor: LoopMonitor, supervisor: Supervisor, stack: AsyncExitStack
) -> LocalBackend:
    """Load the models in workers of this process; `stack` ends them.

    Raises `EngineUnavailableError` and `ConfigurationError`.
    """
    wanted = ModelSettings(**{field.name: getattr(settings, field.name) for field in fields(ModelSettings)})
    models = Models(catalogue_of(settings), wanted, metrics.on_step, supervisor, loop_monitor.awake)
    stack.push_async_callback(models.close)
    await models.start()
    supervisor.run("model files", FolderWatch(models).run)
    admission = Admission(settings, metrics, loop_monitor)
    metrics.add_gauges(ModelGauges(models, admission).read)
    return LocalBackend(models, admission)


async def linked_backend(
    role: Role,
    settings: Settings,
    metrics: Metrics,
    loop_monitor: LoopMonitor,
    supervisor: Supervisor,
    stack: AsyncExitStack,
) -> Backend:
    """Attach to the engine process; wait until it has loaded its models. `stack` ends the link."""
    connect = functools.partial(asyncio.open_unix_connection, str(role.link()), limit=BUFFER_BYTES)
    link = EngineLink(connect, role.name, role.token, settings.stuck_after_s, supervisor, loop_monitor.awake)
    stack.push_async_callback(link.close)
    await link.attached()
    return Backend(LinkedModels(catalogue_of(settings), link), LinkedAdmission(settings, metrics, loop_monitor, link))
