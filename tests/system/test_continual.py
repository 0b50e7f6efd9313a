"""Every way of learning continually, as whole runs: what they leave behind, and that a stopped one ends the same."""

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

NAMES = sorted(path.stem for path in (CONF / "continual").glob("*.yaml"))
DATES = ("seconds", "started", "finished", "memory", "overrides")
CATEGORIES = ("screw", "bottle")  # tasks in no alphabetical order


class StoppedError(Exception):
    """What ends a run here."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), CATEGORIES, good=2, defect=2)


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """One run of each kind that nothing happened to."""
    base = tmp_path_factory.mktemp("runs")
    return {name: (base / name, run_program(overrides(root, name), base / name)) for name in NAMES}


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
    """All that must be the same to the last digit."""
    return {
        "metrics": {key: value for key, value in metrics.items() if key not in DATES},
        "scores": (folder / "scores.csv").read_bytes(),
        "tensors": sorted(path.read_bytes() for path in folder.rglob("*.safetensors")),  # a base has no fixed name
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_run_can_be_loaded_and_counts_what_it_keeps(
    name: str, root: Path, finished: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    folder, metrics = finished[name]
    counts = metrics["parameters"]
    assert list(counts["experts"]) == list(CATEGORIES)
    assert all((count > 0) == (name in ("experts", "separate_flows")) for count in counts["experts"].values())
    assert (counts["base"] > 0) == (name != "separate_flows")
    kept = [path.name for path in (folder / "state").glob("kept*")]
    assert len(kept) == (name in ("ewc", "replay"))
    if kept:
        assert kept[0].startswith("kept1-")
        assert counts["kept"] == sum(value.numel() for value in load_file(folder / "state" / kept[0]).values())
        assert counts["kept"] == (2 * counts["base"] if name == "ewc" else 4 * 8 * 8 * 16)
    else:
        assert counts["kept"] == 0
    moved = any(abs(x) > 0 for x in metrics["backward_transfer"].values() if x is not None)
    assert moved == (name in ("finetune", "ewc", "replay"))
    lines = [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()[1:]]
    scored = MoLEFlow.load(folder).score([root / line[0] for line in lines])
    assert [repr(one.score) for one in scored] == [line[4] for line in lines]
    if name in ("finetune", "ewc", "replay"):  # one density: the router's choice changes no number
        assert {key: metrics[key] for key in metrics["oracle"]} == metrics["oracle"]


def test_the_rivals_part_from_fine_tuning_at_the_second_task(finished: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    epochs = {name: finished[name][1]["training"]["epochs"] for name in ("finetune", "ewc", "replay")}
    assert epochs["ewc"][0] == epochs["replay"][0] == epochs["finetune"][0]
    assert "penalty" not in epochs["ewc"][0][0]
    assert epochs["ewc"][1][-1]["penalty"] > 0
    steps = {name: finished[name][1]["training"]["steps"] for name in epochs}
    assert steps["ewc"] == steps["finetune"] == 2 * 2 * 2
    assert steps["replay"] > steps["finetune"]


@pytest.mark.parametrize("experiment", ["realad_flow", "tailw0.8", "visa_vit_base"])
def test_it_goes_with_any_experiment_and_ablation(experiment: str) -> None:
    plain = once(f"+experiment={experiment}", "+ablation=wo_scale_ctx")
    for name in NAMES:
        config = once(f"+experiment={experiment}", "+ablation=wo_scale_ctx", f"continual={name}")
        changed = {key for key in config["model"] if config["model"][key] != plain["model"][key]}
        assert changed <= {"_target_", "lora_rank", "base"}
        assert config["model"]["lora_rank"] == 0 or name == "experts"
        assert {key for key in config if config[key] != plain[key]} <= {"model", "continual"}
        build_component("model", {**config["model"], "dim": 8})


@pytest.mark.parametrize("where", ["in the last task", "between its model and its note"])
@pytest.mark.parametrize("name", ["ewc", "replay"])
def test_a_stopped_run_ends_the_same(
    name: str,
    where: str,
    root: Path,
    finished: dict[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        add, write = TaskCheckpoints.add, Progress.write

        def add_and_stop(self: TaskCheckpoints, *arguments: Any) -> None:
            add(self, *arguments)
            if self.task == 1 and where == "in the last task":
                raise StoppedError

        def stop(self: Progress, path: Path) -> None:
            if self.tasks_done == 2:
                raise StoppedError
            write(self, path)

        patch.setattr(TaskCheckpoints, "add", add_and_stop)
        patch.setattr(Progress, "write", stop)
        with pytest.raises(StoppedError):
            run_program(overrides(root, name), tmp_path / "run")
    metrics = run_program(overrides(root, name), tmp_path / "run")
    assert outcome(tmp_path / "run", metrics) == outcome(*finished[name])


def test_a_damaged_memory_is_refused_by_name(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            TaskCheckpoints, "latest", lambda self: (_ for _ in ()).throw(StoppedError) if self.task else None
        )
        with pytest.raises(StoppedError):
            run_program(overrides(root, "replay"), tmp_path / "run")
    (kept,) = (tmp_path / "run" / "state").glob("kept*")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(UserError, match=f"{kept.name} is missing or damaged"):
        run_program(overrides(root, "replay"), tmp_path / "run")
