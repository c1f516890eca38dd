"""Where a campaign's commands are run, watched and judged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from attrs import define, frozen

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 20.0
"""A command that trains nothing must be done by then, on a busy machine too."""
MOST_MEBIBYTES = 2048.0
CANARY = "EXECUTED"
"""File that hostile content makes in the working folder where it is executed."""


@frozen
class Outcome:
    """How a command ended.

    Args:
        words: The command line.
        code: Its exit status, negative for a signal; None where it was killed since it took too long, or too
            much memory.
        output: What it printed, on both streams.
        seconds: Its time.
        mebibytes: Its peak memory.
        limit: Seconds that it had.
    """

    words: tuple[str, ...]
    code: int | None
    output: str
    seconds: float
    mebibytes: float
    limit: float

    def faults(self) -> list[str]:
        """Say what no command may do, whatever it is given."""
        found = []
        if "Traceback (most recent call last)" in self.output:
            found.append(f"a traceback: {self.output.strip().splitlines()[-1]:.200}")
        if self.mebibytes > MOST_MEBIBYTES:
            found.append(f"{self.mebibytes:.0f} MiB of memory")
        elif self.code is None:
            found.append(f"not done after {self.limit:.0f} s")
        elif self.code < 0:
            found.append(f"ended by signal {-self.code}")
        elif self.code and not self.output.strip():
            found.append(f"exit status {self.code} without a word")
        if any(ord(c) < 32 and c not in "\n\t\r" for c in self.output):
            found.append("control characters on the terminal")
        if len(self.output) > 50_000:
            found.append(f"{len(self.output):,} characters of output")
        return [f"{fault}, in `learnforge {' '.join(self.words):.300}`" for fault in found]


@define
class Desk:
    """Runs commands in forks of a process that has everything imported.

    Args:
        environment: Variables that every command gets.
    """

    environment: Mapping[str, str] = {}
    _server: subprocess.Popen[str] | None = None
    commands: int = 0
    seconds: float = 0.0
    mebibytes: float = 0.0

    def __enter__(self) -> Desk:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.kill()
        self._server.communicate()

    def run(
        self,
        words: Sequence[object],
        folder: Path,
        limit: float = MOST_SECONDS,
        given: str = "",
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> Outcome:
        """Run one command.

        Args:
            words: The command line after `learnforge`.
            folder: The working folder.
            limit: Seconds after which it is killed.
            given: What stands on its standard input.
            environment: More variables.
            limits: What `resource.setrlimit` sets, by name.
        """
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        beside = folder.parent / f".{folder.name}"
        beside.mkdir(exist_ok=True)
        (beside / "input").write_text(given)
        output = beside / "output"
        output.unlink(missing_ok=True)
        texts = tuple(map(str, words))
        request: dict[str, Any] = {
            "words": texts,
            "folder": str(folder),
            "environment": {"COLUMNS": "200", **self.environment, **(environment or {})},
            "input": str(beside / "input"),
            "output": str(output),
            "limit": limit,
            "limits": dict(limits or {}),
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        said = output.read_text("utf-8", errors="replace") if output.exists() else ""
        outcome = Outcome(texts, answer["code"], said, answer["seconds"], answer["mebibytes"], limit)
        self.commands += 1
        self.seconds = max(self.seconds, outcome.seconds if limit <= MOST_SECONDS else 0.0)
        self.mebibytes = max(self.mebibytes, outcome.mebibytes)
        return outcome
