"""Runs commands in forks of one process that has imported all of them, so that a case costs its own work.

It reads one JSON object a line from standard input and answers with one on standard output; see `desk.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from learnforge.cli import main
from tests.campaigns.desk import MOST_MEBIBYTES

PAGE = resource.getpagesize()


def serve() -> None:
    """Answer requests until standard input ends."""
    # the answers' own copy: what imports print must not get among them
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _import_all()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _import_all() -> None:
    for package in ("learnforge", "learnforge_kit", "learnforge_plugins"):
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            if ".scripts" not in module.name and "__main__" not in module.name:
                importlib.import_module(module.name)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_command(request)
    code, peak = None, 0.0
    while code is None:
        gone, status, usage = os.wait4(pid, os.WNOHANG)
        if gone:
            peak = max(peak, usage.ru_maxrss / 1024)
            code = os.waitstatus_to_exitcode(status)
            break
        peak = max(peak, _resident(pid))
        if time.monotonic() - start > request["limit"] or peak > MOST_MEBIBYTES * 1.5:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            break
        time.sleep(0.01)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it left running
    return {"code": code, "seconds": time.monotonic() - start, "mebibytes": peak}


def _resident(pid: int) -> float:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
    return 0.0


def _be_command(request: Mapping[str, Any]) -> None:
    """Become the command; never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        given = os.open(request["input"], os.O_RDONLY)
        said = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number, stream in enumerate((given, said, said)):
            os.dup2(stream, number)
        for limit, value in request["limits"].items():
            resource.setrlimit(getattr(resource, limit), (value, value))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        main(request["words"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
