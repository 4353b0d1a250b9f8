"""The program that forks decoder processes. It has imported what they need: each costs milliseconds and little memory.

For each request over its control socket it forks a process with two sockets of the front's: one to decode over, and a
lifeline. When the front closes the lifeline, the process is killed; when the process ends, its status is sent there.
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
    """Serve one front until it is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="control socket, inherited from the front")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to a whole unit or group: the front says when to end
    av.logging.set_level(None)  # FFmpeg writes lines as hostile as its input
    _Nursery(socket.socket(fileno=parser.parse_args().fd)).run()


class _Nursery:
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
        gc.freeze()  # what there is now is shared with every child, as long as nobody writes to it
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
        """Carry out a request; return whether the front is still there."""
        data, files, _, _ = socket.recv_fds(self._control, 1, 2)
        if not data:
            return False
        sockets = [socket.socket(fileno=number) for number in files]
        try:
            line, lifeline = sockets
            pid = os.fork()
        except (OSError, ValueError):  # no process, or no descriptor for both: the front sees them closed
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
        """Be a decoder process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):  # nothing of the front's or of other streams stays open here
                os.dup2(null, standard)
            kept = line.fileno()
            os.closerange(3, kept)
            os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
            child.serve(line)
            code = 0
        finally:
            os._exit(code)

    def _kill(self, pid: int) -> None:
        """End a process whose front does not want it any more; it has not been reaped, so that the number is its own."""
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
