"""Categories that come back in a later task with other training images, and orders by seed."""

from pathlib import Path
from typing import Any

import pytest

from helpers.program import LARGE_SET, TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.data.tasks import shuffled
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.store import ModelStore
from moleflow.training.context import RunContext
from moleflow.utils.errors import UserError

FAST = (*(override for override in TINY if not override.startswith("model.")), "model=gaussian", "transform.size=32")
RETURNING = ("scenario=returning", "scenario.returning={bottle: 0.5}")
CATEGORIES = ("bottle", "screw", "tile")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("returning"), CATEGORIES, (32, 32))


def train(tree: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    return run_program([*FAST, "dataset=folder", f"dataset.root={tree}", *overrides], folder)


@pytest.mark.parametrize("on_return", ["add", "replace", "update"])
def test_category_comes_back(tree: Path, tmp_path: Path, on_return: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*RETURNING, f"scenario.on_return={on_return}")
    metrics = train(tree, tmp_path / "run", *command)
    assert metrics["task_matrix"]["tasks"] == [["bottle"], ["screw"], ["tile"], ["bottle"]]
    assert list(metrics["per_category"]) == list(CATEGORIES)
    experts = ["bottle", "screw", "tile", "bottle@2"][on_return != "add" :]
    images = {"add": [3, 6, 6, 3], "replace": [6, 6, 3], "update": [6, 6, 6]}[on_return]
    assert metrics["routing"]["experts"] == experts
    for name, matrix in metrics["task_matrix"].items():
        if name != "tasks":
            assert matrix[3][0] == matrix[3][3]  # the same category
            assert metrics["return_gain"][name] == pytest.approx(matrix[3][0] - matrix[2][0])
    assert list(ModelStore(tmp_path / "run/model").entries()) == experts
    model = MoLEFlow.load(tmp_path / "run")
    assert [len(model.experts[name].training.scores) for name in experts] == images  # type: ignore[union-attr]
    assert model.experts_of("bottle") == [name for name in experts if name.startswith("bottle")]

    evaluate = RunContext.evaluate

    def interrupt(context: RunContext, categories: Any, title: str) -> Any:
        if title == "evaluate 4/4":
            raise UserError("interrupted")
        return evaluate(context, categories, title)

    monkeypatch.setattr(RunContext, "evaluate", interrupt)
    with pytest.raises(UserError, match="interrupted"):
        train(tree, tmp_path / "resumed", *command)
    monkeypatch.setattr(RunContext, "evaluate", evaluate)
    resumed = train(tree, tmp_path / "resumed", *command)
    assert resumed["task_matrix"] == metrics["task_matrix"]
    assert resumed["oracle"] == metrics["oracle"]
    assert list(ModelStore(tmp_path / "resumed/model").entries()) == experts


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=patchcore",),
        ("model=mixture", "model.size=60", "model.rank=4", "scoring.standardize=true"),
        ("model=patchcore", *LARGE_SET),
        ("model=moleflow", "model.coupling_layers=1", "model.lora_rank=2", "model.dia_blocks=1", "epochs=1"),
    ],
    ids=["memory bank", "mixture", "feature sets", "flow"],
)
def test_update_continues_the_first_expert(tree: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    update = ("scenario.on_return=update", *RETURNING, *overrides)
    train(tree, tmp_path / "run", "dataset.categories=[bottle,screw]", *update)
    model = MoLEFlow.load(tmp_path / "run")
    assert list(model.experts) == ["screw", "bottle@2"]
    training = model.experts["bottle@2"].training
    assert training is not None
    assert [len(values) for values in training.state().values()] == [6, 6, 6]
    assert model.router.statistics("bottle@2").count == 6
    if overrides == ("model=patchcore",):  # no training image has a higher score than after its own task
        images = sorted((tree / "bottle/train/good").iterdir())
        assert max(scored.score for scored in model.score(images, "bottle@2")) <= float(training.scores.max()) + 1e-4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*RETURNING, "scenario.on_return=update", "scenario.parallel=true"], r"on_return=update a task depends on an"),
        (["scenario=returning"], r"scenario\.returning=null must have a share or number of training images"),
        (["scenario=returning", "scenario.returning={botle: 2}"], r"'botle', which is no category.*'bottle'"),
        (
            ["scenario=returning", "scenario.returning={bottle: 6}"],
            r"returning\.bottle=6 must leave at least one of the 6",
        ),
        (
            ["scenario=returning", "scenario.returning={bottle: 1.5}"],
            r"bottle=1\.5 must be a share in \(0, 1\) or a whole",
        ),
        ([*RETURNING, "scenario.on_return=both"], r"scenario\.on_return=both is unknown"),
        (
            [*RETURNING, "scenario.on_return=replace", "scenario.split=2-1", "scenario.experts=task"],
            r"has other categories than bottle as well",
        ),
        ([*RETURNING, "scenario.on_return=replace", "model=moleflow", "model.base=separate"], r"model\.base=separate"),
    ],
)
def test_invalid_returns_raise(tree: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tree, tmp_path / "run", *overrides)
    assert not list((tmp_path / "run").glob("*"))


def test_order_seed_changes_the_order_of_tasks_only(tree: Path, tmp_path: Path) -> None:
    seed = next(seed for seed in range(9) if shuffled(CATEGORIES, seed) != CATEGORIES)
    metrics = train(tree, tmp_path / "run", f"scenario.order_seed={seed}", "dataset.shots=2")
    assert metrics["task_matrix"]["tasks"] == [[category] for category in shuffled(CATEGORIES, seed)]
    assert {entry["train_pictures"] for entry in metrics["per_category"].values()} == {2}
