"""Tests of whole runs with each continual-learning strategy: their files, and the result of an interrupted run."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from helpers.composing import once
from helpers.program import CONF, TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.detector.registry import build_component
from moleflow.runs.progress import Progress
from moleflow.training.state import TaskCheckpoints
from moleflow.utils.errors import UserError

STRATEGIES = sorted(path.stem for path in (CONF / "continual").glob("*.yaml"))
VOLATILE_KEYS = ("seconds", "started", "finished", "memory", "overrides")
"""Keys of ``metrics.json`` that differ between equal runs."""
CATEGORIES = ("screw", "bottle")  # tasks that are not in alphabetical order


class StoppedError(Exception):
    """End of a run at a place that the test chooses."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), CATEGORIES, good=2, defect=2)


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return folder and metrics of an undisturbed run with each strategy."""
    base = tmp_path_factory.mktemp("runs")
    return {name: (base / name, run_program(overrides(root, name), base / name)) for name in STRATEGIES}


def overrides(root: Path, name: str) -> list[str]:
    small = ["continual.images=4"] if name == "replay" else []
    return [
        "dataset=folder",
        f"dataset.root={root}",
        "dataset.categories=[screw,bottle]",
        *TINY,
        f"continual={name}",
        *small,
    ]


def outcome(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return everything that must be equal to the last bit."""
    return {
        "metrics": {key: value for key, value in metrics.items() if key not in VOLATILE_KEYS},
        "scores": (folder / "scores.csv").read_bytes(),
        "tensors": sorted(path.read_bytes() for path in folder.rglob("*.safetensors")),  # names of bases may differ
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_run_can_be_loaded_and_counts_the_values_of_its_strategy(
    name: str, root: Path, finished: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    folder, metrics = finished[name]
    counts = metrics["parameters"]
    assert list(counts["experts"]) == list(CATEGORIES)
    assert all((count > 0) == (name in ("experts", "separate_flows")) for count in counts["experts"].values())
    assert (counts["base"] > 0) == (name != "separate_flows")
    states = [path.name for path in (folder / "state").glob("strategy*")]
    assert len(states) == (name in ("ewc", "replay"))
    if states:
        assert states[0].startswith("strategy1-")
        assert counts["kept"] == sum(value.numel() for value in load_file(folder / "state" / states[0]).values())
        assert counts["kept"] == (2 * counts["base"] if name == "ewc" else 4 * 8 * 8 * 16)
    else:
        assert counts["kept"] == 0
    changed = any(abs(x) > 0 for x in metrics["backward_transfer"].values() if x is not None)
    assert changed == (name in ("finetune", "ewc", "replay"))
    rows = [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()[1:]]
    scored = MoLEFlow.load(folder).score([root / row[0] for row in rows])
    assert [repr(image.score) for image in scored] == [row[4] for row in rows]
    if name in ("finetune", "ewc", "replay"):  # all experts have one density, so routing changes no metric
        assert {key: metrics[key] for key in metrics["oracle"]} == metrics["oracle"]


def test_strategies_differ_from_fine_tuning_from_the_second_task_on(
    finished: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    epochs = {name: finished[name][1]["training"]["epochs"] for name in ("finetune", "ewc", "replay")}
    assert epochs["ewc"][0] == epochs["replay"][0] == epochs["finetune"][0]
    assert "penalty" not in epochs["ewc"][0][0]
    assert epochs["ewc"][1][-1]["penalty"] > 0
    steps = {name: finished[name][1]["training"]["steps"] for name in epochs}
    assert steps["ewc"] == steps["finetune"] == 2 * 2 * 2
    assert steps["replay"] > steps["finetune"]


@pytest.mark.parametrize("experiment", ["realad_flow", "tailw0.8", "visa_vit_base"])
def test_every_strategy_combines_with_experiments_and_ablations(experiment: str) -> None:
    plain = once(f"+experiment={experiment}", "+ablation=wo_scale_ctx")
    for name in STRATEGIES:
        config = once(f"+experiment={experiment}", "+ablation=wo_scale_ctx", f"continual={name}")
        changed = {key for key in config["model"] if config["model"][key] != plain["model"][key]}
        assert changed <= {"_target_", "lora_rank", "base"}
        assert config["model"]["lora_rank"] == 0 or name == "experts"
        assert {key for key in config if config[key] != plain[key]} <= {"model", "continual"}
        build_component("model", {**config["model"], "dim": 8})


@pytest.mark.parametrize("place", ["in the last task", "between model and progress"])
@pytest.mark.parametrize("name", ["ewc", "replay"])
def test_resumed_run_has_the_result_of_an_undisturbed_run(
    name: str,
    place: str,
    root: Path,
    finished: dict[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        add, write = TaskCheckpoints.add, Progress.write

        def add_and_stop(self: TaskCheckpoints, *arguments: Any) -> None:
            add(self, *arguments)
            if self.task == 1 and place == "in the last task":
                raise StoppedError

        def write_or_stop(self: Progress, path: Path) -> None:
            if self.tasks_done == 2:
                raise StoppedError
            write(self, path)

        patch.setattr(TaskCheckpoints, "add", add_and_stop)
        patch.setattr(Progress, "write", write_or_stop)
        with pytest.raises(StoppedError):
            run_program(overrides(root, name), tmp_path / "run")
    metrics = run_program(overrides(root, name), tmp_path / "run")
    assert outcome(tmp_path / "run", metrics) == outcome(*finished[name])


def test_damaged_strategy_state_is_an_error_with_the_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            TaskCheckpoints, "latest", lambda self: (_ for _ in ()).throw(StoppedError) if self.task else None
        )
        with pytest.raises(StoppedError):
            run_program(overrides(root, "replay"), tmp_path / "run")
    (state,) = (tmp_path / "run" / "state").glob("strategy*")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(UserError, match=f"{state.name} is missing or damaged"):
        run_program(overrides(root, "replay"), tmp_path / "run")
