"""The short form of the fault injection: a few of each kind. ``python -m tests.faults`` is the long form."""

import random
import signal

import pytest

from faults import scenarios
from faults.harness import Bench


def test_killed_at_random_times_and_run_again(bench: Bench) -> None:
    kills = list(scenarios.killed_at_random(bench, "random", random.Random(1), most=4))
    assert kills


@pytest.mark.parametrize(("within", "operation"), [("run", 7), ("run", 41), ("run", 67), ("cache", 11)])
def test_killed_while_a_file_is_written(bench: Bench, within: str, operation: int) -> None:
    happened = scenarios.killed_at_operation(bench, f"operation-{within}-{operation}", operation, within)
    assert happened == scenarios.SAME


@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGINT, r"features: +\d+%"), (signal.SIGTERM, r"task 2/2 screw: +\d+%"), (signal.SIGTERM, "evaluate 1/2")],
)
def test_a_request_to_stop_leaves_a_resumable_run(bench: Bench, number: int, after: str) -> None:
    scenarios.stopped(bench, f"stop-{number}-{after[:5]}", number, after)


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("model/base.safetensors", "bit flipped"),
        ("model/experts/bottle.safetensors", "missing"),
        ("model/manifest.json", "bit flipped"),
        ("state/progress.json", "bit flipped"),
        ("config.yaml", "missing"),
    ],
)
def test_what_a_run_needs_is_refused_when_damaged(bench: Bench, pattern: str, kind: str) -> None:
    job = bench.half(f"half-{pattern.replace('/', '-')}")
    assert scenarios.damaged(bench, job, pattern, kind, random.Random(0)) == scenarios.REFUSED


def test_a_damaged_checkpoint_costs_its_epochs_only(bench: Bench) -> None:
    job = bench.half("half-checkpoint")
    assert scenarios.damaged(bench, job, "state/*.ckpt", "bit flipped", random.Random(0)) == scenarios.SAME
    assert "is damaged; it is not used" in job.log.read_text()


@pytest.mark.parametrize("name", ["metrics.json", "scores.csv"])
def test_damaged_results_are_written_again(bench: Bench, name: str) -> None:
    job = bench.copy(bench.reference, f"results-{name}")
    assert scenarios.damaged(bench, job, name, "bit flipped", random.Random(0)) == scenarios.SAME


@pytest.mark.parametrize("name", ["model/base.safetensors", "model/experts/screw.safetensors", "model/manifest.json"])
def test_a_finished_run_with_a_damaged_model_is_not_called_finished(bench: Bench, name: str) -> None:
    job = bench.copy(bench.reference, f"finished-{name.replace('/', '-')}")
    assert scenarios.damaged(bench, job, name, "bit flipped", random.Random(0)) == scenarios.REFUSED


def test_a_damaged_cache_entry_is_computed_again(bench: Bench) -> None:
    scenarios.damaged_entry(bench, "entry", "bit flipped", random.Random(0))


@pytest.mark.parametrize("kilobytes", [16, 400])
def test_a_full_disk(bench: Bench, kilobytes: int) -> None:
    try:
        assert scenarios.full_disk(bench, f"full-{kilobytes}", kilobytes) == scenarios.REFUSED
    except PermissionError:
        pytest.skip("this process may not mount")


def test_a_read_only_folder(bench: Bench) -> None:
    try:
        scenarios.read_only(bench, "read-only")
    except PermissionError:
        pytest.skip("this process may not mount")


def test_a_second_process_ends_at_once(bench: Bench) -> None:
    assert scenarios.two_at_once(bench, "two") == scenarios.REFUSED
