"""Tests of the search with Optuna: jobs of a launcher that computes a function in place of a run."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

pytest.importorskip("optuna", minversion="4.0")

import optuna

from helpers.composing import CONF
from moleflow.experiment import search as module
from moleflow.experiment.compose import PRUNED, JobError
from moleflow.experiment.search import Search
from moleflow.experiment.search_space import SearchSpace
from moleflow.runs.searches import SearchRecord
from moleflow.utils.errors import UserError

SPACE = ["lr=tag(log, interval(1e-4, 1e-1))", "depth=range(1, 9, 2)", "name=a,b"]
MEDIAN = {"_target_": "optuna.pruners.MedianPruner"}
Objective = Callable[[dict[str, str]], Any]


class Launcher:
    """Launcher whose jobs return a function of their overrides; an exception of the function ends the launcher."""

    def __init__(self, function: Objective) -> None:
        self.function = function
        self.jobs: list[dict[str, str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        jobs = [dict(override.split("=", 1) for override in overrides) for overrides in job_overrides]
        self.jobs += jobs
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=self.function(job)) for job in jobs]


def distance(job: dict[str, str]) -> float:
    return -abs(float(job["lr"]) - 1e-3) - int(job["depth"])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of a database, whose tables take long to create."""
    return str(tmp_path_factory.mktemp("storage") / "searches.db")


@pytest.fixture
def make_search(
    storage: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Search]:
    """Return a function that creates the search of one command."""

    def make(
        function: Objective = distance, objective: Any = "pixel_ap", sampler: str = "tpe", **changes: Any
    ) -> Search:
        launcher = Launcher(function)
        plugins = SimpleNamespace(instantiate_launcher=lambda *_: launcher)
        monkeypatch.setattr(module.Plugins, "instance", lambda: plugins)
        defaults = {"n_trials": 5, "storage": storage, "study_name": request.node.name}
        settings = OmegaConf.load(CONF / "hydra/sweeper/optuna.yaml")
        for kind, option in (("sampler", sampler), ("pruner", "none")):
            settings[kind] = OmegaConf.load(CONF / f"hydra/sweeper/{kind}/{option}.yaml")
        content: dict[str, Any] = {key: settings[key] for key in settings if not str(key).startswith(("_", "defaults"))}
        sweep = {"sweep": {"dir": str(tmp_path), "subdir": "."}}
        config = OmegaConf.create({"name": "mine", "seed": 0, "objective": objective, "hydra": sweep})
        loader = SimpleNamespace(load_sweep_config=lambda *_: None)
        context = SimpleNamespace(config_loader=loader)
        if "pruner" in changes:
            changes["pruner"] = OmegaConf.create(changes["pruner"])
        return Search(context, None, config, **content | defaults | changes)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "failed_job", lambda *arguments: JobReturn(status=JobStatus.FAILED, _return_value=None))
    return make


def trials(search: Search) -> list[Any]:
    return [(trial.params, trial.state.name, trial.values) for trial in search.study.get_trials()]


def test_hydra_syntax_is_the_search_space() -> None:
    d = optuna.distributions
    space = SearchSpace(
        ["a=tag(log, interval(1e-4, 1e-1))", "b=int(interval(1, 5))", "c=range(1, 6)", "d=range(0.5, 2, 0.5)",
         "+e=x,'y z'", "f=choice(0.5, [1, 2])", "g=3", "~h", "i=tag(log, range(1, 9))", "g=4"]
    )  # fmt: skip
    assert space.distributions == {
        "a": d.FloatDistribution(1e-4, 1e-1, log=True), "b": d.IntDistribution(1, 5), "c": d.IntDistribution(1, 5),
        "d": d.FloatDistribution(0.5, 1.5, step=0.5), "e": d.CategoricalDistribution(["x", "'y z'"]),
        "f": d.CategoricalDistribution(["0.5", "[1,2]"]), "i": d.IntDistribution(1, 8, log=True),
    }  # fmt: skip
    assert space.fixed == ["g=4", "~h"]
    assert space.overrides({"e": "'y z'", "b": 2}) == ["+e='y z'", "b=2", "g=4", "~h"]


@pytest.mark.parametrize(
    ("override", "message"),
    [("a=1", "needs a key with several values"), ("a=tag(sqrt, interval(0, 1))", "the only tag is log"),
     ("a=tag(log, interval(0, 1.5))", "no valid range"), ("a=interval(2, 1)", "no valid range"),
     ("a=tag(log, choice(1, 2))", "the only tag is log")],
)  # fmt: skip
def test_invalid_spaces_raise(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchSpace([override])


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_search_that_is_resumed_has_the_trials_of_an_uninterrupted_one(
    sampler: str, make_search: Callable[..., Search]
) -> None:
    reference = make_search(sampler=sampler, study_name=f"reference {sampler}")
    reference.run(SPACE)

    def kill_fourth(job: dict[str, str]) -> float:
        if job["hydra.sweeper.trial"] == "3":
            raise KeyboardInterrupt
        return distance(job)

    interrupted = make_search(kill_fourth, sampler=sampler)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(SPACE)
    assert [state for _, state, _ in trials(interrupted)] == ["COMPLETE"] * 3 + ["RUNNING"]
    resumed = make_search(sampler=sampler)
    resumed.run(SPACE)
    assert trials(resumed) == trials(reference)
    assert len({tuple(params.items()) for params, _, _ in trials(resumed)}) == 5
    assert [job["hydra.sweeper.trial"] for job in resumed.launcher.jobs] == ["3", "4"]  # type: ignore[attr-defined]
    repeated = make_search(sampler=sampler)
    repeated.run(SPACE)
    assert not repeated.launcher.jobs  # type: ignore[attr-defined]


def test_trial_without_values_of_a_dead_sweeper_is_continued(
    make_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    search = make_search(n_trials=2)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", stop)
        with pytest.raises(KeyboardInterrupt):
            search.run(SPACE)
    assert [state for _, state, _ in trials(search)] == ["RUNNING"]
    make_search(n_trials=2).run(SPACE)
    assert [state for _, state, _ in trials(search)] == ["COMPLETE"] * 2


def test_trials_of_a_living_sweeper_are_not_taken_over(
    make_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_search()

    def stop(job: dict[str, str]) -> float:
        raise KeyboardInterrupt

    other.launcher.function = stop  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        other.run(SPACE)
    (trial,) = other.study.get_trials()
    other.storage.set_trial_user_attr(
        trial._trial_id, "sweeper", {"id": "other", "host": "elsewhere", "process": os.getpid()}
    )
    other.study.set_user_attr("sweeper other", module.time.time())
    search = make_search(n_trials=3)
    search.run(SPACE)
    assert [state for _, state, _ in trials(search)] == ["RUNNING", "COMPLETE", "COMPLETE"]
    monkeypatch.setattr(module, "GRACE_SECONDS", 0)  # no heartbeat any more
    make_search(n_trials=3).run(SPACE)
    assert [state for _, state, _ in trials(search)] == ["COMPLETE"] * 3


def test_failed_and_pruned_jobs_do_not_end_the_search(make_search: Callable[..., Search], tmp_path: Path) -> None:
    results = iter([1.0, None, float("nan"), PRUNED, 2.0, 3.0])
    search = make_search(lambda job: next(results), n_trials=6)
    search.run(SPACE)
    states = ["COMPLETE", "FAIL", "FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
    assert [state for _, state, _ in trials(search)] == states
    make_search(lambda job: 0.5, n_trials=6).run(SPACE)  # replaces the failed trials
    assert [state for _, state, _ in trials(search)] == [*states, "COMPLETE", "COMPLETE"]
    (path,) = (tmp_path / "searches").glob("*.json")
    record = SearchRecord.read(path)
    assert [trial.number for trial in record.best] == [5]
    assert sorted(record.importance["pixel_ap"]) == ["depth", "lr", "name"]
    assert sum(record.importance["pixel_ap"].values()) == pytest.approx(1)


def test_job_that_kills_its_worker_fails_alone(make_search: Callable[..., Search]) -> None:
    def fail_in_second(job: dict[str, str]) -> float:
        if job["hydra.sweeper.trial"] == "1":
            raise RuntimeError("a worker was killed")
        return 1.0

    search = make_search(fail_in_second, n_jobs=3)
    search.run(SPACE)
    assert [state for _, state, _ in trials(search)] == ["COMPLETE", "FAIL"] + ["COMPLETE"] * 3


def test_several_objectives(make_search: Callable[..., Search]) -> None:
    search = make_search(
        lambda job: [int(job["depth"]), int(job["depth"]) + float(job["lr"])],
        objective=["pixel_ap", "seconds"], direction=["maximize", "minimize"], n_trials=8, sampler="nsga2",
    )  # fmt: skip
    search.run(SPACE)
    record = search.record()
    points = [trial.values for trial in record.trials]
    expected = [
        point for point in points
        if not any(other != point and other[0] >= point[0] and other[1] <= point[1] for other in points)
    ]  # fmt: skip
    assert sorted(trial.values for trial in record.best) == sorted(expected)
    assert list(record.importance) == ["pixel_ap", "seconds"]


def test_grid_ends_with_its_last_combination(make_search: Callable[..., Search]) -> None:
    search = make_search(lambda job: 1.0, sampler="grid", n_trials=99)
    search.run(["depth=range(1, 4)", "name=a,b"])
    assert sorted(tuple(params.values()) for params, _, _ in trials(search)) == [
        (depth, name) for depth in (1, 2, 3) for name in "ab"
    ]
    with pytest.raises(JobError, match=r"no values for lr, which is an interval"):
        make_search(sampler="grid").run(SPACE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trials": 0}, r"hydra\.sweeper\.n_trials=0 must be at least 1"),
        ({"direction": "up"}, r"hydra\.sweeper\.direction=up is unknown"),
        ({"direction": ["maximize"] * 2}, "must be one direction, or one for each of the 1 metrics"),
        ({"objective": ["pixel_ap", "pixel_ap"]}, "must be a key of metrics.json, or a list of different keys"),
        ({"pruner": MEDIAN, "objective": "seconds"}, "is computed at the end of a run only"),
        ({"pruner": MEDIAN, "objective": ["pixel_ap", "pro"]}, "several metrics, between which no pruner can decide"),
        ({"pruner": MEDIAN | {"x": 1}}, "hydra/sweeper/pruner: .*'x'"),
        ({"storage": "nonsense://me:secret@host/x"}, r"storage=nonsense://me:\*\*\*@host/x cannot be opened"),
    ],
)  # fmt: skip
def test_invalid_settings_raise(changes: dict[str, Any], message: str, make_search: Callable[..., Search]) -> None:
    with pytest.raises(JobError, match=message):
        make_search(**changes).run(SPACE)


def test_study_of_another_search_is_not_continued(make_search: Callable[..., Search]) -> None:
    make_search(n_trials=1).run(SPACE)
    make_search(n_trials=2).run([*SPACE, "trainer=gpu"])  # does not affect results
    for arguments, changes, key in (
        ([*SPACE, "epochs=3"], {}, "overrides"),
        (SPACE[:2], {}, "search space"),
        (SPACE, {"objective": "pro"}, "objective"),
    ):
        with pytest.raises(JobError, match=f"is another search, with {key} .*Choose another name"):
            make_search(**changes).run(arguments)


def test_damaged_records_raise(make_search: Callable[..., Search], tmp_path: Path) -> None:
    make_search(n_trials=1).run(SPACE)
    (path,) = (tmp_path / "searches").glob("*.json")
    content = json.loads(path.read_text())
    for key, value in (("trials", 3), ("objectives", []), ("space", {"a": 1}), ("importance", {"a": {"b": "c"}})):
        path.write_text(json.dumps(content | {key: value}))
        with pytest.raises(ValueError, match="is not the record of a search"):
            SearchRecord.read(path)
