"""What a decoder's process gives up before it reads the first image.

Decoders are C code that reads what strangers send. One that is taken over finds no credentials and no environment (its
process starts with neither), can open no file and no socket, start no program and no thread, gain no privilege, signal
no other process, and take no more memory than the worker grants. What is left is the computation itself: reading one
pipe, writing another, and the two mappings in which images come and views go.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from typing import Final

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_FILTER_MODE = 2
_PROT_EXEC = 4
_STDERR_BYTES = 64 * 1024

_CALLS: Final = {
    # Linux's numbers on x86_64 and aarch64.
    "read": (0, 63),
    "write": (1, 64),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
"""The system calls that decoding needs; every other one fails with EPERM."""
_MEMORY_CALLS: Final = {"mmap": (9, 222), "mprotect": (10, 226)}
"""Allowed as long as they ask for no executable memory."""

_MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> its column above, and its AUDIT_ARCH."""

# Classic BPF: load a word of seccomp_data, jump if equal, jump if bits are set, return.
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _THIRD_ARGUMENT = 0, 4, 32
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def give_up_rights() -> str | None:
    """Give up, for the rest of this process, whatever decoding does not need; None, or what the kernel refused.

    Limits on files and core dumps hold in any case. Everything that decoding uses must be loaded by now.
    """
    for limit, most in (
        (resource.RLIMIT_NOFILE, 0),  # those that are open can still be used
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _STDERR_BYTES),
    ):
        resource.setrlimit(limit, (most, most))
    try:
        _control(_PR_SET_DUMPABLE, 0)
        _control(_PR_SET_NO_NEW_PRIVS, 1)
        column, arch = _MACHINES[platform.machine()]
        program = filter_program(column, arch)
        _control(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(_Program(len(program) // 8, program)))
    except KeyError:
        return f"no list of system calls for {platform.machine()}"
    except (OSError, AttributeError) as error:  # AttributeError: another system than Linux
        return str(error)
    return None


def filter_program(column: int, arch: int) -> bytes:
    """The seccomp filter, 8 bytes an instruction, for a machine's column of call numbers and its AUDIT_ARCH."""
    steps = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    for numbers in _CALLS.values():
        steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    for numbers in _MEMORY_CALLS.values():
        steps += [
            (_EQUAL, 0, 4, numbers[column]),
            (_LOAD, 0, 0, _THIRD_ARGUMENT),
            (_ANY_BIT, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _FAIL | errno.EACCES),
            (_RETURN, 0, 0, _ALLOW),
        ]
    steps.append((_RETURN, 0, 0, _FAIL | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _control(option: int, *arguments: object) -> None:
    values = [*arguments, *[0] * (4 - len(arguments))]
    words = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in values]
    if _LIBC.prctl(option, *words) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}) failed: {os.strerror(code)}")


_LIBC = ctypes.CDLL(None, use_errno=True)
