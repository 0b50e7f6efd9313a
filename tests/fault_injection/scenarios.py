"""Faults, each as a function that injects it once and returns the outcome."""

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fault_injection.harness import VOLATILE_KEYS, Harness, Job, WrongResultError, phase
from fault_injection.kill_points import kill_at_operation
from helpers.processes import Process

SAME = "same result"
"""The same command afterwards finished with the result of the reference run."""
NAMED_ERROR = "named error"
"""The command ended with one message that names the file, and without a traceback."""
NOT_REACHED = "not reached"
"""The fault was not injected, because the run ended before it."""

DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "empty": lambda content, _: b"",
    "first byte only": lambda content, _: content[:1],
    "cut in the header": lambda content, _: content[: min(len(content) - 1, 7)],
    "cut at a block": lambda content, _: content[: (len(content) - 1) // 512 * 512],
    "cut in the middle": lambda content, _: content[: len(content) // 2],
    "end missing": lambda content, _: content[:-2],
    "byte added": lambda content, _: content + b"\0",
    "bit flipped": lambda content, rng: flip_bit(content, rng),
    "block of zeros": lambda content, rng: zero_block(content, rng),
    "missing": lambda content, _: None,
}
"""Kinds of damage: functions from the content of a file to its new content; None removes the file."""

UNFINISHED = ("model/base.safetensors", "model/experts/bottle.safetensors", "model/manifest.json",
              "state/progress.json", "state/*.ckpt", "config.yaml", "data.json",
              "status.json")  # fmt: skip
"""Files of an unfinished run that are damaged."""
FINISHED = ("model/base.safetensors", "model/experts/screw.safetensors", "model/manifest.json", "metrics.json",
            "scores.csv", "status.json", "config.yaml", "data.json", "state/progress.json")  # fmt: skip
"""Files of a finished run that are damaged."""


def flip_bit(content: bytes, rng: random.Random) -> bytes:
    """Return the content with one bit flipped."""
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zero_block(content: bytes, rng: random.Random) -> bytes:
    """Return the content with a block of up to 64 bytes set to zero."""
    start = rng.randrange(len(content))
    return content[:start] + bytes(len(content[start : start + 64])) + content[start + 64 :]


def damage(folder: Path, pattern: str, kind: str, rng: random.Random) -> Path:
    """Damage the only file that matches a pattern and return its path.

    Args:
        folder: Folder of the file.
        pattern: Glob pattern.
        kind: A key of `DAMAGES`.
        rng: Source of the random positions.
    """
    (path,) = folder.glob(pattern)
    content = DAMAGES[kind](path.read_bytes(), rng)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return path


def kill_at_random_times(harness: Harness, name: str, rng: random.Random, max_kills: int = 1000) -> Iterator[str]:
    """Start a run again and again and kill it at random times until it finishes; yield the phase of each kill."""
    job = harness.job(name, separate_cache=True)
    for _ in range(max_kills):
        process = harness.start(job)
        if not kill_after(process, rng.uniform(0.2, harness.duration)):
            break
        yield phase(process.output)
    harness.finish(job)
    harness.compare(job)


def kill_after(process: Process, seconds: float) -> bool:
    """Kill a process after some seconds; return false if it has succeeded before, also just before the kill."""
    status = process.wait(seconds)
    if status is None:
        process.kill()
        status = process.wait()
    assert status in (0, -signal.SIGKILL), f"exit status {status}: {process.output[-3000:]}"
    return status != 0


def kill_at_file_operation(harness: Harness, name: str, operation: int, within: str, *overrides: str) -> str:
    """Kill a run at its n-th operation on files, then resume it.

    Args:
        harness: The harness.
        name: Name of the job.
        operation: Number n of the operation, from 1.
        within: ``run`` to count operations in the run folder, ``cache`` to count those in the feature cache.
        overrides: Overrides of the run.

    Returns:
        `SAME`, or `NOT_REACHED` if the run made fewer operations.
    """
    job = harness.job(name, *overrides, separate_cache=True)
    folder = job.cache if within == "cache" else job.folder
    process = harness.start(job, setup=kill_at_operation(operation, folder))
    status = process.wait()
    assert status in (0, -signal.SIGKILL), process.output[-3000:]
    harness.resume(job)
    return SAME if status else NOT_REACHED


def stop_by_signal(harness: Harness, name: str, number: int, pattern: str) -> str:
    """Send a signal to a run, check its exit status and its status file, and resume it.

    Args:
        harness: The harness.
        name: Name of the job.
        number: The signal.
        pattern: The signal is sent as soon as the output matches this regular expression.
    """
    job = harness.job(name, separate_cache=True)
    process = harness.start(job)
    process.wait_for(pattern)
    process.kill(number)
    assert process.wait() == 128 + number, process.output[-3000:]
    assert job.status == "interrupted"
    assert "Traceback" not in process.output
    harness.resume(job)
    return SAME


def damage_run_file(harness: Harness, job: Job, pattern: str, kind: str, rng: random.Random) -> str:
    """Damage a file of a run folder, run the command again, and return the outcome, `SAME` or `NAMED_ERROR`.

    Args:
        harness: The harness.
        job: Job with the run folder.
        pattern: Glob pattern of the file.
        kind: A key of `DAMAGES`.
        rng: Source of the random positions.
    """
    path = damage(job.folder, pattern, kind, rng)
    return _outcome(harness, job, harness.start(job), path)


def damage_cache_entry(harness: Harness, name: str, kind: str, rng: random.Random) -> str:
    """Damage an entry of the feature cache and assert that a run with this cache has the same result.

    Args:
        harness: The harness.
        name: Name of the job.
        kind: A key of `DAMAGES`.
        rng: Source of the random entry and positions.
    """
    job = harness.job(name, separate_cache=True)
    shutil.copytree(harness.base / "cache", job.cache)
    path = rng.choice(sorted(job.cache.rglob("*.safetensors")))
    damage(path.parent, path.name, kind, rng)
    process = harness.start(job)
    outcome = _outcome(harness, job, process, path)
    assert outcome == SAME
    assert kind == "missing" or str(path) in process.output  # the warning
    return outcome


def _outcome(harness: Harness, job: Job, process: Process, path: Path) -> str:
    status = process.wait()
    output = process.output
    assert "Traceback" not in output, output[-3000:]
    if status == 0:
        harness.compare(job)
        return SAME
    assert status == 1, f"exit status {status}: {output[-3000:]}"
    assert path.name in output, output[-3000:]
    return NAMED_ERROR


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory; yield a function that mounts it again with other options.

    Args:
        folder: Mount point; created.
        kilobytes: Size of the file system.

    Raises:
        PermissionError: If this process may not mount.
    """
    folder.mkdir(parents=True)

    def mount(*arguments: str) -> None:
        if (
            not shutil.which("mount")
            or subprocess.run(["mount", *arguments, str(folder)], capture_output=True).returncode
        ):
            raise PermissionError("mount")

    mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_disk(harness: Harness, name: str, kilobytes: int, *overrides: str) -> str:
    """Run on a disk that becomes full, then enlarge it and resume.

    Args:
        harness: The harness.
        name: Name of the job.
        kilobytes: Size of the disk.
        overrides: Overrides of the run.

    Returns:
        `NAMED_ERROR`, or `SAME` if the disk was large enough.
    """
    job = harness.job(name, *overrides)
    with small_disk(job.folder.parent, kilobytes) as remount:
        process = harness.start(job)
        status = process.wait()
        assert "Traceback" not in process.output, process.output[-3000:]
        if status == 0:
            return SAME
        assert status == 1, process.output[-3000:]
        assert "No space left on device" in process.output or "failed writing" in process.output, process.output[-3000:]
        remount("size=64m")
        harness.resume(job)
    return NAMED_ERROR


def make_folder_read_only(harness: Harness, name: str) -> str:
    """Resume a killed run in a read-only folder, then make the folder writable and resume again."""
    killed = harness.killed_job(f"{name}-killed")
    job = harness.job(name)
    with small_disk(job.folder.parent, 65536) as remount:
        shutil.copytree(killed.folder, job.folder)
        before = {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()}
        remount("ro")
        process = harness.start(job)
        assert process.wait() == 1, process.output[-3000:]
        assert "Traceback" not in process.output, process.output[-3000:]
        assert "Read-only file system" in process.output, process.output[-3000:]
        assert before == {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()}
        remount("rw")
        harness.resume(job)
    return NAMED_ERROR


@dataclass(frozen=True)
class Ensemble:
    """Seconds and result of the evaluation of an ensemble."""

    seconds: float
    result: dict[str, Any]


def kill_ensemble(harness: Harness, name: str, members: Sequence[Job], expected: Ensemble, rng: random.Random) -> str:
    """Kill the evaluation of an ensemble at a random time, then evaluate it again.

    Args:
        harness: The harness.
        name: Name of the run folder.
        members: The jobs whose finished runs are the members.
        expected: Seconds and result of an evaluation without a fault.
        rng: Source of the time.

    Returns:
        `SAME`, or `NOT_REACHED` if the evaluation ended before.
    """
    process = start_ensemble(harness, name, members)
    killed = kill_after(process, rng.uniform(0.1, expected.seconds))
    if killed:
        again = start_ensemble(harness, name, members)
        assert again.wait() == 0, again.output[-3000:]
    result = ensemble_result(harness.base / name)
    if result != expected.result:
        raise WrongResultError(f"the ensemble {name} differs from the reference")
    return SAME if killed else NOT_REACHED


def start_ensemble(harness: Harness, name: str, members: Sequence[Job]) -> Process:
    """Start the evaluation of an ensemble in a run folder of this name."""
    arguments = ["ensemble", *(str(job.folder) for job in members), "-o", str(harness.base / name)]
    return harness.processes.start(*arguments, log=harness.base / f"{name}.log", program="moleflow")


def ensemble_result(folder: Path) -> dict[str, Any]:
    """Return everything that the evaluation of an ensemble must reproduce to the last bit."""
    metrics = json.loads((folder / "metrics.json").read_text())
    members = json.loads((folder / "ensemble.json").read_text())
    for key in ("checksum", "name"):
        members.pop(key, None)
    return {
        "metrics": {key: value for key, value in metrics.items() if key not in VOLATILE_KEYS},
        "scores": (folder / "scores.csv").read_bytes(),
        "ensemble": members,
    }


def kill_sweep(harness: Harness, name: str, seconds: float, rng: random.Random) -> str:
    """Kill a sweep over two seeds at a random time, repeat it, and compare both runs with those of single commands.

    Args:
        harness: The harness, whose reference run has the first seed.
        name: Name of the folder.
        seconds: Time in which the sweep is killed.
        rng: Source of the time.
    """
    folder = harness.base / name
    folder.mkdir()
    job = harness.job(name)
    fixed = [argument for argument in job.arguments if not argument.startswith("hydra.run.dir")]
    arguments = ["-m", *fixed, "seed=0,1"]
    log = harness.base / f"{name}.log"
    process = harness.processes.start(*arguments, log=log, cwd=folder)
    killed = kill_after(process, rng.uniform(0.3, seconds))
    if killed:
        again = harness.processes.start(*arguments, log=log, cwd=folder)
        assert again.wait() == 0, again.output[-3000:]
    runs = sorted(folder.glob("runs/*/*/seed*"))
    assert [run.name for run in runs] == ["seed0", "seed1"], process.output[-3000:]
    harness.compare(replace(job, folder=runs[0]))
    assert json.loads((runs[1] / "status.json").read_text())["status"] == "finished"
    return SAME if killed else NOT_REACHED


def report_without_space(harness: Harness, name: str, kilobytes: int) -> str:
    """Write a report on a disk that becomes full, then enlarge the disk and write it again.

    Args:
        harness: The harness.
        name: Name of the folder.
        kilobytes: Size of the disk; 0 for a disk that is read-only.

    Returns:
        `NAMED_ERROR`, or `SAME` if the disk was large enough.
    """
    folder, log = harness.base / name / "disk", harness.base / f"{name}.log"
    runs = str(harness.reference.folder.parent)
    with small_disk(folder, kilobytes or 64) as remount:
        if not kilobytes:
            remount("ro")
        process = harness.processes.start("report", runs, "-o", str(folder / "report"), log=log, program="moleflow")
        status = process.wait()
        output = process.output
        assert "Traceback" not in output, output[-3000:]
        remount("rw,size=64m")
        again = harness.processes.start("report", runs, "-o", str(folder / "report"), log=log, program="moleflow")
        assert again.wait() == 0, again.output[-3000:]
        assert (folder / "report" / "index.html").read_text().rstrip().endswith("</html>")
        if status == 0:
            return SAME
        assert status == 1, output[-3000:]
        assert str(folder) in output, output[-3000:]
    return NAMED_ERROR


MOVES = ("renamed", "symbolic link", "relative path", "another mount point", "another user")
"""Changes of the circumstances of a run between two commands."""


def move_run(harness: Harness, name: str, kind: str) -> str:
    """Resume a killed run whose folder or data have moved, then start the command once more.

    Args:
        harness: The harness.
        name: Name of the job.
        kind: One of `MOVES`.
    """
    job = harness.killed_job(name)
    setup = ""
    moved = harness.base / f"{name}-moved"
    moved.mkdir()
    match kind:
        case "renamed":
            job = replace(job, folder=job.folder.rename(moved / "renamed"))
        case "symbolic link":
            (moved / "run").symlink_to(job.folder)
            (moved / "tree").symlink_to(job.tree)
            job = replace(job, folder=moved / "run", tree=moved / "tree")
        case "relative path":
            setup = f"import os; os.chdir({str(harness.base)!r})"
            job = replace(job, tree=Path(harness.tree.name))
        case "another mount point":
            job = replace(job, tree=Path(shutil.copytree(job.tree, moved / "tree")))
        case _:
            setup = f"import os; os.environ.update(HOME={str(moved)!r}, USER='other', LOGNAME='other')"
    harness.finish(job, setup)
    harness.compare(job)
    finished = harness.finish(job, setup)
    assert "is finished already" in finished.output
    harness.compare(job)
    return SAME


def start_twice(harness: Harness, name: str) -> str:
    """Start a run and, while it runs, the same command again."""
    job = harness.job(name, separate_cache=True)
    first = harness.start(job)
    first.wait_for("features: ")
    second = harness.start(job)
    assert second.wait() == 1
    assert f"is in use by process {first.pid}" in second.output
    assert "Traceback" not in second.output
    assert first.wait() == 0, first.output[-3000:]
    harness.compare(job)
    return NAMED_ERROR
