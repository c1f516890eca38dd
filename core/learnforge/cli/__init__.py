"""The command line. Each command is a file that is imported when it is called, so that `--help` costs
no torch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learnforge.errors import LearnforgeError, LearnforgeWarning, printable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors raised on purpose are printed without a traceback; `--debug` shows it."""
    import click

    from learnforge.cli.group import cli

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as a daemon does
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for the whole process
    before = threading.enumerate()
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debugging = "--debug" in given
    try:
        with warnings.catch_warnings():
            _show_warnings()
            own = [word for word in given if word != "--debug"]
            code = cli.main(own, prog_name="learnforge", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (LearnforgeError, OSError, MemoryError) as error:
        if is_debugging:
            raise
        hint = "" if isinstance(error, LearnforgeError) else "; --debug shows where"
        words = "\n".join([f"{str(error) or 'not enough memory'}{hint}", *getattr(error, "__notes__", ())])
        print(f"learnforge: {printable(words)}", file=sys.stderr)  # noqa: T201
        sys.exit(getattr(error, "exit_code", 1))
    except (KeyboardInterrupt, click.Abort):
        if is_debugging:
            raise
        if arguments is None:  # this is the process's own command: who asks again wants no more words
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        words = "stopped; `run` and `bench` keep finished work, and go on when they are called again"
        print(f"learnforge: {words}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    finally:
        _name_threads(before)


def _name_threads(before: Sequence[threading.Thread]) -> None:
    """Tell of threads that a plugin has left running, for which Python waits at its end."""
    for thread in (thread for thread in threading.enumerate() if not thread.daemon and thread not in before):
        thread.join(1.0)
        owner = getattr(getattr(thread, "_target", None), "__module__", type(thread).__module__)
        if thread.is_alive() and not owner.startswith("concurrent.futures"):  # Python ends idle pools
            words = f"the thread {thread.name!r} of {owner}, which is still running; Ctrl-C ends it"
            print(f"learnforge: waiting for {printable(words)}", file=sys.stderr, flush=True)  # noqa: T201


def _show_warnings() -> None:
    """Show learnforge's own warnings as one line, others as Python shows them."""
    show_others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, LearnforgeWarning):
            print(f"learnforge: warning: {printable(str(message))}", file=sys.stderr)  # noqa: T201
        else:
            show_others(message, category, *place)

    warnings.showwarning = show  # type: ignore[assignment]
