"""The socket that the server listens on."""

from __future__ import annotations

import ipaddress
import os
import socket

from myna.runtime.errors import ConfigurationError
from myna.server.settings import Settings

_BACKLOG = 512
"""Connections that wait to be accepted."""


def listen(settings: Settings, *, shared: bool = False, accepting: bool = True) -> socket.socket:
    """Return a listening socket. Raises `ConfigurationError`, also where it would let other machines in without a key.

    Several processes can listen if all their sockets are `shared`: the system gives each new connection to one of them. A
    socket that is not `accepting` holds the port and gets no connections.
    """
    listener = _bound(settings, shared=shared, accepting=accepting)
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    if settings.keys is None and not address.is_loopback and not settings.allow_anonymous:
        listener.close()
        raise ConfigurationError(
            f"host {settings.host} can be reached from other machines, and there are no API keys: make one with `myna keys"
            " add NAME` and name its file with --keys, or admit every client with --allow-anonymous"
        )
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


def _bound(settings: Settings, *, shared: bool, accepting: bool) -> socket.socket:
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        if accepting:
            return socket.create_server(address[:2], family=family, backlog=_BACKLOG, reuse_port=shared)
        holder = socket.socket(family)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address[:2])
        return holder
    except socket.gaierror as error:
        raise ConfigurationError(
            f"host {settings.host!r} is not an address of this machine: {error.strerror}"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {where}: {os.strerror(error.errno or 0)}; choose another port with --port or MYNA_PORT"
        ) from error
