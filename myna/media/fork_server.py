"""The program that forks decoder processes. It has imported their modules: a fork costs milliseconds and little memory.

For each request on its control socket it forks a process with two sockets from the server: one for messages, and a lifeline.
When the server closes the lifeline, the fork server kills the process. When the process ends, the fork server sends its exit
status over the lifeline.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import selectors
import signal
import socket

import av

from myna.media import child
from myna.media.messages import STATUS


def main() -> None:
    """Serve one server until it closes the control socket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="control socket, inherited from the server")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the whole process group: the server decides when to end
    av.logging.set_level(None)  # FFmpeg would log parts of hostile input
    _ForkServer(socket.socket(fileno=parser.parse_args().fd)).run()


class _ForkServer:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lifelines: dict[int, socket.socket] = {}  # by process
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)  # noqa: FBT003 - the standard library's signature
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ)
        self._selector.register(self._control, selectors.EVENT_READ)
        gc.collect()
        gc.freeze()  # the garbage collector no longer writes to memory that is shared with every child
        self._control.sendall(b".")
        try:
            self._serve(wake)
        finally:
            for pid in list(self._lifelines):
                self._kill(pid)

    def _serve(self, wake: socket.socket) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is wake:
                    with contextlib.suppress(BlockingIOError):
                        wake.recv(4096)
                elif key.fileobj is self._control:
                    if not self._fork():
                        return
                else:
                    self._kill(key.data)
            self._reap()

    def _fork(self) -> bool:
        """Carry out one request; return False if the server has closed the control socket."""
        data, files, _, _ = socket.recv_fds(self._control, 1, 2)
        if not data:
            return False
        sockets = [socket.socket(fileno=number) for number in files]
        try:
            line, lifeline = sockets
            pid = os.fork()
        except (OSError, ValueError):  # no process or no descriptor is left: the server sees its sockets closed
            for each in sockets:
                each.close()
            return True
        if pid == 0:
            self._live(line)
        line.close()
        self._lifelines[pid] = lifeline
        self._selector.register(lifeline, selectors.EVENT_READ, pid)
        return True

    def _live(self, line: socket.socket) -> None:
        """Run as a decoder process; never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):  # close all descriptors of the server and of other streams
                os.dup2(null, standard)
            kept = line.fileno()
            os.closerange(3, kept)
            os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
            child.serve(line)
            code = 0
        finally:
            os._exit(code)

    def _kill(self, pid: int) -> None:
        """Kill a process whose lifeline is closed. It has not been reaped, so its process id has not been reused."""
        self._forget(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if lifeline := self._lifelines.get(pid):
                with contextlib.suppress(OSError):
                    lifeline.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
                self._forget(pid)

    def _forget(self, pid: int) -> None:
        lifeline = self._lifelines.pop(pid)
        self._selector.unregister(lifeline)
        lifeline.close()


if __name__ == "__main__":
    main()
