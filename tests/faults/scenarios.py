"""The faults, each as a function that injects it once and says what became of the run."""

import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.dying import die_at
from faults.harness import DRAWN, Bench, Job, phase
from helpers.processes import Process

SAME = "same result"
REFUSED = "refused by name"
NOT_REACHED = "not reached"

DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "empty": lambda content, _: b"",
    "first byte only": lambda content, _: content[:1],
    "cut in the header": lambda content, _: content[: min(len(content) - 1, 7)],
    "cut at a block": lambda content, _: content[: (len(content) - 1) // 512 * 512],
    "cut in the middle": lambda content, _: content[: len(content) // 2],
    "end lost": lambda content, _: content[:-2],
    "byte added": lambda content, _: content + b"\0",
    "bit flipped": lambda content, dice: flipped(content, dice),
    "block of zeros": lambda content, dice: zeroed(content, dice),
    "missing": lambda content, _: None,
}
"""What happens to a file: its content to its new content, None if it is gone."""

UNFINISHED = ("model/base.safetensors", "model/experts/bottle.safetensors", "model/manifest.json",
              "state/progress.json", "state/*.ckpt", "config.yaml", "status.json")  # fmt: skip
FINISHED = ("model/base.safetensors", "model/experts/screw.safetensors", "model/manifest.json", "metrics.json",
            "scores.csv", "status.json", "config.yaml", "state/progress.json")  # fmt: skip


def flipped(content: bytes, dice: random.Random) -> bytes:
    """Return the content with one bit changed."""
    changed = bytearray(content)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def zeroed(content: bytes, dice: random.Random) -> bytes:
    """Return the content with a block of 64 zeros somewhere."""
    start = dice.randrange(len(content))
    return content[:start] + bytes(len(content[start : start + 64])) + content[start + 64 :]


def damage(folder: Path, pattern: str, kind: str, dice: random.Random) -> Path:
    """Damage the file that matches and return its path."""
    (path,) = folder.glob(pattern)
    content = DAMAGES[kind](path.read_bytes(), dice)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return path


def killed_at_random(bench: Bench, name: str, dice: random.Random, most: int = 1000) -> Iterator[str]:
    """Start a run again and again and kill it at random times until it gets through; yield the phase of each kill."""
    job = bench.job(name, own_cache=True)
    for _ in range(most):
        process = bench.start(job)
        status = process.wait(dice.uniform(0.2, bench.duration))
        if status is not None:
            assert status == 0, process.output[-3000:]
            break
        process.kill()
        assert process.wait() == -signal.SIGKILL
        yield phase(process.output)
    bench.finish(job)
    bench.compare(job)


def killed_at_operation(bench: Bench, name: str, operation: int, within: str) -> str:
    """Kill a run at its n-th operation on files of the run folder or the cache, then run it again.

    Returns:
        `SAME`, or `NOT_REACHED` if it never came to that operation.
    """
    job = bench.job(name, DRAWN, own_cache=True)
    process = bench.start(job, setup=die_at(operation, job.cache if within == "cache" else job.folder))
    status = process.wait()
    assert status in (0, -signal.SIGKILL), process.output[-3000:]
    bench.resume(job)
    return SAME if status else NOT_REACHED


def stopped(bench: Bench, name: str, number: int, after: str, seconds: float = 10) -> str:
    """Ask a run to stop once its output matches, check how it does, and run it again to its end."""
    job = bench.job(name, own_cache=True)
    process = bench.start(job)
    process.wait_for(after)
    process.kill(number)
    assert process.wait(seconds) == 128 + number, process.output[-3000:]
    assert job.status == "interrupted"
    assert "Traceback" not in process.output
    bench.resume(job)
    return SAME


def damaged(bench: Bench, job: Job, pattern: str, kind: str, dice: random.Random) -> str:
    """Damage a file of a run folder, run the command again, and return what happened: `SAME` or `REFUSED`."""
    path = damage(job.folder, pattern, kind, dice)
    return _verdict(bench, job, bench.start(job), path)


def damaged_entry(bench: Bench, name: str, kind: str, dice: random.Random) -> str:
    """Damage an entry of the feature cache and run on it."""
    job = bench.job(name, own_cache=True)
    shutil.copytree(bench.base / "cache", job.cache)
    path = dice.choice(sorted(job.cache.rglob("*.safetensors")))
    damage(path.parent, path.name, kind, dice)
    process = bench.start(job)
    verdict = _verdict(bench, job, process, path)
    assert verdict == SAME
    assert kind == "missing" or str(path) in process.output  # the warning
    return verdict


def _verdict(bench: Bench, job: Job, process: Process, path: Path) -> str:
    status = process.wait()
    output = process.output
    assert "Traceback" not in output, output[-3000:]
    if status == 0:
        bench.compare(job)
        return SAME
    assert status == 1, f"exit status {status}: {output[-3000:]}"
    assert path.name in output, output[-3000:]
    return REFUSED


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory of that size; yield a function that mounts it again with other options.

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


def full_disk(bench: Bench, name: str, kilobytes: int) -> str:
    """Run on a disk that gets full, then make room and run again."""
    job = bench.job(name, DRAWN)
    with small_disk(job.folder.parent, kilobytes) as remount:
        process = bench.start(job)
        status = process.wait()
        assert "Traceback" not in process.output, process.output[-3000:]
        if status == 0:
            return SAME
        assert status == 1, process.output[-3000:]
        assert "No space left on device" in process.output or "failed writing" in process.output, process.output[-3000:]
        remount("size=64m")
        bench.resume(job)
    return REFUSED


def read_only(bench: Bench, name: str) -> str:
    """Go on in a folder that has become read-only, then make it writable and go on again."""
    elsewhere = bench.half(f"{name}-half")
    job = bench.job(name)
    with small_disk(job.folder.parent, 65536) as remount:
        shutil.copytree(elsewhere.folder, job.folder)
        before = {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()}
        remount("ro")
        process = bench.start(job)
        assert process.wait() == 1, process.output[-3000:]
        assert "Traceback" not in process.output, process.output[-3000:]
        assert "Read-only file system" in process.output, process.output[-3000:]
        assert before == {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()}
        remount("rw")
        bench.resume(job)
    return REFUSED


def two_at_once(bench: Bench, name: str) -> str:
    """Start a run and, while it runs, the same command again."""
    job = bench.job(name, own_cache=True)
    first = bench.start(job)
    first.wait_for("features: ")
    second = bench.start(job)
    assert second.wait(20) == 1
    assert f"is in use by process {first.pid}" in second.output
    assert "Traceback" not in second.output
    assert first.wait() == 0, first.output[-3000:]
    bench.compare(job)
    return REFUSED
