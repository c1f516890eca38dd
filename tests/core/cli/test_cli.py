"""The command line: what it prints, its exit codes, and that errors come without a traceback."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from learnforge.cli import main

SMALL = """
[run]
name = "tiny"
device = "cpu"

[task]
use = "digits"
classes = [0, 1]

[[stage]]
kind = "transfer"
use = "fine-tune"
from = { use = "conv4", width = 4, blocks = 1 }
train = { epochs = 1 }
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.toml"
    file.write_text(SMALL)
    return file


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


def test_run_shows_a_table_and_writes_a_report(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`learnforge run` ends with the table of stages and the place of the report."""
    assert run("run", str(recipe)) == 0
    output = capsys.readouterr()
    assert "tiny: finished" in output.out
    assert "fine-tune" in output.out
    assert "report: runs/tiny/report.html" in output.out
    assert "transfer: fine-tune 1/1" in output.err
    assert Path("runs/tiny/report.html").stat().st_size < 6_000_000
    assert Path("runs/tiny/report.md").read_text().startswith("# tiny\n")


def test_report_reads_the_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`learnforge report` writes the same report out of the folder alone; without a run it refuses."""
    run("run", str(recipe))
    page = Path("runs/tiny/report.md").read_text()
    Path("runs/tiny/report.md").unlink()
    assert run("report", "runs/tiny") == 0
    assert Path("runs/tiny/report.md").read_text() == page
    assert run("report", "nowhere") == 1
    assert "nowhere holds no run: run.json is missing" in capsys.readouterr().err


def test_check_finds_every_error_without_a_traceback(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recipe errors: exit code 2, all of them, no traceback; with `--debug` the traceback."""
    recipe.write_text(SMALL.replace("fine-tune", "fine-tuna").replace("epochs = 1", "epochs = -1"))
    for command in ("check", "run"):
        assert run(command, str(recipe)) == 2
        errors = capsys.readouterr().err
        assert "2 problems" in errors
        assert "stage.transfer.use: there is no transfer 'fine-tuna'; did you mean 'fine-tune'?" in errors
        assert "stage.transfer.train.epochs: 'epochs' must be >= 0: -1" in errors
        assert "Traceback" not in errors
    assert not Path("runs").exists()
    words = [sys.executable, "-m", "learnforge", "check", str(recipe), "--debug"]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "Traceback" in shown.stderr


def test_check_says_when_all_is_well(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good recipe passes, and nothing is written."""
    assert run("check", str(recipe)) == 0
    assert capsys.readouterr().out.endswith("1 stage, no error\n")
    assert run("check", "digits") == 0
    assert not Path("runs").exists()


def test_a_changed_stage_wants_overwrite(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a finished stage is only run again with `--overwrite`."""
    run("run", str(recipe))
    assert run("run", str(recipe), "--set", "stage.transfer.train.epochs=2") == 1
    assert "Pass `--overwrite`" in capsys.readouterr().err
    assert run("run", str(recipe), "--set", "stage.transfer.train.epochs=2", "--overwrite") == 0
    metrics = json.loads(Path("runs/tiny/transfer/metrics.json").read_text())
    assert len(metrics["history"]["transfer"]) == 2


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`learnforge plugins` lists kinds and names; an unknown kind gets the nearest."""
    assert run("plugins") == 0
    listed = capsys.readouterr().out
    assert "searcher" in listed
    assert "evolution" in listed
    assert run("plugins", "--kind", "sercher") == 2
    assert "did you mean 'searcher'?" in capsys.readouterr().err


def test_an_unknown_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped command is answered with the nearest one."""
    assert run("rnu") == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


def test_a_plugin_brings_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point `command.NAME` becomes a subcommand, imported only when it is called."""
    (tmp_path / "greeting_command.py").write_text(
        "import click\nfrom learnforge import hookimpl\n\n"
        "@click.command('greet')\ndef greet():\n    click.echo('good day')\n\n"
        "@hookimpl\ndef learnforge_commands():\n    return {'greet': greet}\n"
    )
    info = tmp_path / "greeting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[learnforge]\ncommand.greet = greeting_command\n")
    words = [sys.executable, "-m", "learnforge"]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    listed = subprocess.run([*words, "--help"], capture_output=True, text=True, check=True).stdout
    assert "greet" in listed
    assert (
        subprocess.run([*words, "greet"], capture_output=True, text=True, check=True).stdout == "good day\n"
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-"])
def test_a_run_needs_no_open_streams(recipe: Path, closed: str) -> None:
    """As where a service starts it, which closes them."""
    command = f"{sys.executable} -m learnforge run {recipe} {closed}"
    done = subprocess.run(command, shell=True, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert Path("runs/tiny/report.html").is_file()


def test_errors_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters and marks that turn the direction of writing are spelt out."""
    assert run("check", str(tmp_path / "no\x1b[31m\u202e.toml")) == 2
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "\\x1b[31m\\u202e.toml" in told


def test_a_run_that_is_finished_says_what_it_kept(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first time nothing is kept, the second time all is."""
    run("run", str(recipe))
    assert "kept from" not in capsys.readouterr().out
    run("run", str(recipe))
    assert "kept from an earlier run: transfer\n" in capsys.readouterr().out


def test_a_path_that_the_system_refuses_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of 3,600 characters, wherever it is given; `--debug` shows where it was met."""
    monkeypatch.chdir(tmp_path)
    name = "x" * 3600
    for words in (("check", name), ("predict", name, "a.png"), ("run", "digits", "--run", name)):
        assert run(*words) in (1, 2)
        said = capsys.readouterr().err
        assert re.search("File name too long|the name is too long|does not exist", said), words
        assert "Traceback" not in said


def test_a_thread_that_is_left_running_is_named(tmp_path: Path) -> None:
    """Python waits for it, and the user is told for what."""
    (tmp_path / "tiny.toml").write_text(SMALL)
    (tmp_path / "busy.py").write_text(
        "import threading, time\nfrom learnforge import hookimpl\n\n\ndef work(): time.sleep(3.0)\n\n\n"
        "@hookimpl\ndef learnforge_run_finished(run): threading.Thread(target=work, name='busy').start()\n"
    )
    words = ["-m", "learnforge", "run", "tiny.toml", "--plugin", "./busy.py"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, timeout=100, check=True
    )
    assert "waiting for the thread 'busy' of learnforge_plugin_busy, which is still running" in done.stderr


def test_a_second_interrupt_ends_without_a_traceback(tmp_path: Path) -> None:
    """While a thread of a plugin's keeps the process."""
    (tmp_path / "tiny.toml").write_text(SMALL)
    (tmp_path / "stuck.py").write_text(
        "import threading, time\nfrom learnforge import hookimpl\n\n\n@hookimpl\n"
        "def learnforge_stage_started(stage):\n"
        "    threading.Thread(target=time.sleep, args=(60.0,)).start()\n"
        "    print('started', flush=True)\n    time.sleep(60.0)\n"
    )
    words = [sys.executable, "-m", "learnforge", "run", "tiny.toml", "--plugin", "./stuck.py"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    while "stopped" not in (line := process.stderr.readline()):
        assert line, "the first interrupt is told"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("run.device='/dev/zero'", "run.device: must be `auto` or a device as torch spells it"),
        ("stage.transfer.from=2026-11-29", "stage.transfer.from: must be a table"),
        ("task=12:00:00", "task: must be a table"),
    ],
)
def test_check_refuses_what_no_run_could_take(
    recipe: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    """Devices that no machine has, and TOML's dates where a method must stand."""
    assert run("check", str(recipe), "--set", change) == 2
    assert words in capsys.readouterr().err
