"""Start a process that can't outlive this one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

# Run by a fresh interpreter that becomes the process: in a preexec_fn the same two calls could meet a lock that another
# of our threads held at the fork. 1 is PR_SET_PDEATHSIG, which survives the exec.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() == int(sys.argv[1]):  # else our parent died before the line above
    os.execv(sys.argv[3], sys.argv[3:])
"""


def spawn(
    argv: Sequence[str],
    output: int,
    when_orphaned: signal.Signals,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C in our terminal doesn't reach it.

    `output` is a file descriptor for its stdout and stderr. When this process ends, however it ends, the kernel sends
    the other one `when_orphaned` (Linux only).
    """
    if sys.platform == "linux":
        argv = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(when_orphaned)), *argv]
    started: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        # To the kernel the parent is the thread that forked, and its end counts as the parent's death:
        # so a thread that waits for the process starts it, whatever thread called us and however soon that one ends.
        try:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as exc:
            started.set_exception(exc)
            return
        started.set_result(process)
        process.wait()

    threading.Thread(target=keep, name=f"waits-for-{Path(argv[0]).name}", daemon=True).start()
    return started.result()
