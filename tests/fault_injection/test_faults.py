"""The short form of the fault injection, a few faults of each kind; the package's ``__main__`` is the long form."""

import random
import signal

import pytest

from fault_injection import scenarios
from fault_injection.harness import WITH_IMAGES, Harness


def test_run_that_is_killed_at_random_times_ends_with_the_same_result(harness: Harness) -> None:
    kills = list(scenarios.kill_at_random_times(harness, "random", random.Random(1), max_kills=4))
    assert kills


@pytest.mark.parametrize(
    ("within", "operation", "overrides"),
    [("run", 7, ()), ("run", 41, ()), ("run", 67, (WITH_IMAGES,)), ("cache", 11, ())],
    ids=["run-7", "run-41", "run-67", "cache-11"],
)
def test_run_that_is_killed_while_it_writes_a_file_ends_with_the_same_result(
    harness: Harness, within: str, operation: int, overrides: tuple[str, ...]
) -> None:
    name = f"operation-{within}-{operation}"
    outcome = scenarios.kill_at_file_operation(harness, name, operation, within, *overrides)
    assert outcome == scenarios.SAME


@pytest.mark.parametrize(
    ("number", "pattern"),
    [(signal.SIGINT, r"features: +\d+%"), (signal.SIGTERM, r"task 2/2 screw: +\d+%"), (signal.SIGTERM, "evaluate 1/2")],
)
def test_signal_leaves_a_resumable_run(harness: Harness, number: int, pattern: str) -> None:
    scenarios.stop_by_signal(harness, f"stop-{number}-{pattern[:5]}", number, pattern)


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
def test_damage_to_a_file_that_resuming_requires_is_an_error(harness: Harness, pattern: str, kind: str) -> None:
    job = harness.killed_job(f"killed-{pattern.replace('/', '-')}")
    assert scenarios.damage_run_file(harness, job, pattern, kind, random.Random(0)) == scenarios.NAMED_ERROR


def test_epochs_of_a_damaged_checkpoint_are_trained_again(harness: Harness) -> None:
    job = harness.killed_job("killed-checkpoint")
    assert scenarios.damage_run_file(harness, job, "state/*.ckpt", "bit flipped", random.Random(0)) == scenarios.SAME
    assert "is damaged and is not used" in job.log.read_text()


@pytest.mark.parametrize("name", ["metrics.json", "scores.csv"])
def test_damaged_results_are_written_again(harness: Harness, name: str) -> None:
    job = harness.copy(harness.reference, f"results-{name}")
    assert scenarios.damage_run_file(harness, job, name, "bit flipped", random.Random(0)) == scenarios.SAME


@pytest.mark.parametrize("name", ["model/base.safetensors", "model/experts/screw.safetensors", "model/manifest.json"])
def test_finished_run_with_a_damaged_model_is_an_error(harness: Harness, name: str) -> None:
    job = harness.copy(harness.reference, f"finished-{name.replace('/', '-')}")
    assert scenarios.damage_run_file(harness, job, name, "bit flipped", random.Random(0)) == scenarios.NAMED_ERROR


def test_damaged_cache_entry_is_computed_again(harness: Harness) -> None:
    scenarios.damage_cache_entry(harness, "entry", "bit flipped", random.Random(0))


@pytest.mark.parametrize(("kilobytes", "overrides"), [(16, ()), (400, (WITH_IMAGES,))], ids=["16 kB", "400 kB"])
def test_run_on_a_full_disk_can_be_resumed(harness: Harness, kilobytes: int, overrides: tuple[str, ...]) -> None:
    try:
        assert scenarios.fill_disk(harness, f"full-{kilobytes}", kilobytes, *overrides) == scenarios.NAMED_ERROR
    except PermissionError:
        pytest.skip("this process may not mount")


def test_run_in_a_read_only_folder_can_be_resumed(harness: Harness) -> None:
    try:
        scenarios.make_folder_read_only(harness, "read-only")
    except PermissionError:
        pytest.skip("this process may not mount")


def test_second_process_in_the_same_folder_is_an_error(harness: Harness) -> None:
    assert scenarios.start_twice(harness, "two") == scenarios.NAMED_ERROR


@pytest.mark.parametrize("kind", ["another mount point", "symbolic link"])
def test_run_that_has_moved_is_resumed_with_the_same_result(harness: Harness, kind: str) -> None:
    assert scenarios.move_run(harness, f"moved-{kind.replace(' ', '-')}", kind) == scenarios.SAME
