"""Host names for a test: an /etc/hosts that only one thread sees, with all that is started from it.

A thread gets a mount namespace of its own, in which another file lies over /etc/hosts. It goes with the last
thread or process that is in it; the machine's file is never touched.
"""

import ctypes
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pytest

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def with_hosts(names: Mapping[str, str], work: Callable[[], T]) -> T:
    """The result of `work`, for which these names have these addresses; skips where it takes root."""
    if os.geteuid() != 0:
        pytest.skip("only root may make mount namespaces")
    done: list[Any] = []
    failed: list[BaseException] = []
    with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
        hosts.write("127.0.0.1 localhost\n::1 localhost\n")
        hosts.writelines(f"{address} {name}\n" for name, address in names.items())
        hosts.flush()

        def run() -> None:
            try:
                _enter(hosts.name)
                done.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    if failed:
        raise failed[0]
    result: T = done[0]
    return result


def _enter(hosts_file: str) -> None:
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    # Otherwise what is mounted here would show in the namespace of the machine.
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
    _check(_libc.mount(os.fsencode(hosts_file), b"/etc/hosts", None, _MS_BIND, None), "mount --bind")


def _check(code: int, doing: str) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), doing)
