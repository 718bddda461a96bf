"""Become another program that the kernel kills when our parent dies: `die_with_parent.py PARENT_PID PROGRAM ARG...`.

A program of its own, executed between fork and exec, instead of a `preexec_fn`: Python code that runs in a forked child
of a process with threads can deadlock on a lock which another thread held (CPython's documentation warns, 3.12 does so
at run time). It imports little, so that it costs about 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Arm the death signal where the kernel has one (Linux), then exec."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # The request outlives exec. It is about the *thread* that forked us, not the process: see ServerProcess.start.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(f"parent {parent} is gone")
    try:
        os.execvp(program[0], program)  # noqa: S606  # a shell is what we avoid
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
