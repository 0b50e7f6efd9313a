"""Tests of the program ``moleflow``: help without heavy imports, exit statuses, errors, broken pipes."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from helpers.program import ROOT, run_command
from moleflow import __version__
from moleflow.cli.command import COMMANDS, exit_status, main
from moleflow.utils.errors import UserError

HEAVY = {"torch", "torchvision", "timm", "lightning", "matplotlib", "scipy", "wandb", "hydra", "omegaconf", "numpy"}

IMPORTED = """
import sys
from moleflow.cli.command import main
try:
    main(sys.argv[1:])
finally:
    print("imported:", *sorted(module for module in sys.modules if "." not in module))
"""


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command: str | None) -> None:
    process = run_command("-c", IMPORTED, *([] if command is None else [command]), "--help")
    assert process.returncode == 0, process.stderr
    text, _, imported = process.stdout.rpartition("imported:")
    assert not HEAVY & set(imported.split())
    assert text.startswith("usage: moleflow")


REFUSED = (
    ["train", "dataset=folder", "dataset.root=/no/such/folder"],
    ["train", "dataset=mvtec"],
    ["train", "dataset=folder", "dataset.root=EMPTY"],
    ["train", "dataset=folder", "dataset.rot=/data"],
    ["train", "dataset=mvtek"],
    ["train", "dataset=mvtec", "optimizer.lr=-1"],
    ["train", "dataset=mvtec", "objective=pixl_ap"],
    ["report", "/no/such/folder"],
    ["catalogue", "/no/such/folder"],
    ["predict", "EMPTY", "image.png"],
    ["calibrate", "/no/such/folder", "EMPTY"],
    ["export", "/no/such/folder", "--all"],
    ["merge-experts", "merged", "/no/such/folder", "EMPTY"],
)
"""Commands that end with status 1. EMPTY is an empty folder."""

MODULES_AFTER_EACH = """
import json, sys
from moleflow.cli.command import main
for command in json.loads(sys.argv[1]):
    try:
        status = main(command)
    except SystemExit as stop:
        status = stop.code
    heavy = sorted({"torch", "lightning", "timm", "wandb"} & set(sys.modules))
    print("\\nend of command:", json.dumps([status, heavy]))
"""


def run_commands(commands: list[list[str]], folder: Path) -> list[Any]:
    """Run commands one after another in a new process; return status and imported heavy modules after each."""
    process = run_command("-c", MODULES_AFTER_EACH, json.dumps(commands), cwd=folder)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    marker = "end of command:"
    return [json.loads(line.removeprefix(marker)) for line in process.stdout.splitlines() if line.startswith(marker)]


def test_refused_commands_import_neither_torch_nor_lightning(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    commands = [[word.replace("EMPTY", str(tmp_path / "empty")) for word in words] for words in REFUSED]
    assert run_commands(commands, tmp_path) == [[1, []]] * len(commands)
    assert not (tmp_path / "runs/default").exists()


def test_report_and_catalogue_import_neither_torch_nor_lightning(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()  # without a run, because plots take longer than the rest
    commands = [["catalogue", "runs"], ["report", "runs", "-o", "report"]]
    assert run_commands(commands, tmp_path) == [[0, []]] * 2


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    words = capsys.readouterr().out.split()
    assert set(COMMANDS) <= set(words)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"moleflow {__version__}\n"


def test_console_script_and_module_are_the_same_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"moleflow": "moleflow.__main__:main"}
    script = "import sys; from moleflow.__main__ import main; sys.argv[0] = 'moleflow'; sys.exit(main())"
    for arguments in (["--help"], ["report", "--help"], ["nonsense"], ["migrate", "--lr", "1"], ["export", "MODEL"]):
        module, console = (run_command(*start, *arguments) for start in (["-m", "moleflow"], ["-c", script]))
        assert (module.returncode, module.stdout, module.stderr) == (
            console.returncode, console.stdout, console.stderr
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["a command is missing", "moleflow --help"]),
        (["nonsense"], ["unknown command 'nonsense'", "moleflow --help"]),
        (["reprot", "runs"], ["unknown command 'reprot'", "Did you mean 'report'"]),
        (["merge"], ["Did you mean 'merge-experts'"]),
        (["--nonsense"], ["--nonsense"]),
        (["report"], ["moleflow report", "RUNS_DIR"]),
        (["predict", "MODEL", "a.png", "--deviations=many"], ["--deviations", "many"]),
        (["ensemble", "a", "b"], ["-o/--out"]),
    ],
)
def test_wrong_usage_has_status_2(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "/no/such/folder"], "/no/such/folder is not a folder"),
        (["catalogue", "/no/such/folder"], "/no/such/folder is not a folder"),
        (["catalogue", "--group=visas"], "--group=visas has no entries. Choose one of: mole6_dia2"),
        (["migrate", "--num_epoch", "3"], "Did you mean 'num_epochs'"),
        (["check-data", "/no/such/folder"], "/no/such/folder"),
        (["predict", "MODEL", "/no/such/folder/"], "MODEL"),
    ],
)
def test_user_errors_are_one_message_with_status_1(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not captured.out


def test_ctrl_c_has_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert exit_status(interrupted) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_status_of_the_command_is_returned() -> None:
    assert exit_status(lambda: 0) == 0
    assert exit_status(lambda: 1) == 1


def test_other_exceptions_keep_their_traceback() -> None:
    def fail() -> int:
        raise ValueError("a defect of the program")

    with pytest.raises(ValueError, match="a defect of the program"):
        exit_status(fail)
    assert not issubclass(UserError, ValueError)


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (["catalogue", "--group", "visa"], ""),
        (["migrate", "--page"], ""),
        (["migrate", "--page"], "1"),
        (["--help"], ""),  # argparse itself ignores the error of an unbuffered output
    ],
)
def test_closed_output_ends_quietly_with_status_141(arguments: list[str], unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "moleflow", *arguments]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")


def test_broken_pipe_of_a_socket_keeps_its_traceback() -> None:
    code = (
        "from moleflow.cli.command import exit_status\n"
        "def run():\n    raise BrokenPipeError('a socket')\n"
        "exit_status(run)"
    )
    process = run_command("-c", code)
    assert process.returncode == 1
    assert "a socket" in process.stderr
    assert "Traceback" in process.stderr
