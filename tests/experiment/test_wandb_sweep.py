"""Tests of sweep files of W&B: the command that an agent composes from them is accepted by ``moleflow train``."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from helpers.processes import Processes
from helpers.program import CONF, TINY
from helpers.trees import write_mvtec_tree
from moleflow.cli.command import main
from moleflow.experiment.compose import compose_config
from moleflow.experiment.wandb_sweep import wandb_sweep
from moleflow.utils.errors import UserError


def agent_command(content: dict[str, Any], position: int = 0) -> list[str]:
    """Return the command of W&B's agent for the values of one position, without the environment."""
    values = {}
    for name, parameter in content["parameters"].items():
        choices = parameter.get("values") or [parameter["min"], parameter["max"]]
        values[name] = {"value": choices[position]}
    macros: dict[str, Any] = {**create_sweep_command_args({"args": values}), "program": [content["program"]], "env": []}
    words: list[str] = []
    for word in create_sweep_command(list(content["command"])):
        words += macros[word[2:-1]] if word.startswith("${") else [str(word)]
    return words


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "sweep").glob("*.yaml"))])
def test_file_lists_all_values_of_the_sweep(name: str) -> None:
    content = yaml.safe_load(yaml.safe_dump(wandb_sweep(name, ["dataset.root=/data"])))
    assert content["metric"] == {"name": "pixel_ap", "goal": "maximize"}
    params = yaml.safe_load((CONF / f"sweep/{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert [key.lstrip("+") for key in params] == list(content["parameters"])
    for key, value in params.items():
        parameter = content["parameters"][key.lstrip("+")]
        if "values" in parameter and "(" not in str(value):
            words = [word.strip() for word in str(value).split(",")]
            assert [str(each) for each in parameter["values"]] == [
                str(float(word)) if re.fullmatch(r"\de-\d", word) else word for word in words
            ]
    assert (content["method"] == "bayes") == (name == "search")
    command = agent_command(content)
    assert command[:4] == ["moleflow", "train", f"+sweep={name}", "hydra.mode=RUN"]


@pytest.mark.parametrize("name", ["tail_weight", "ablations", "scale_context_kernel", "search"])
def test_command_of_the_agent_composes_one_run(name: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    content = wandb_sweep(name, ["dataset.root=/data"])
    config = compose_config(agent_command(content)[2:])
    assert config.hydra.mode.name == "RUN"
    assert list(config.logger) == ["wandb"]
    assert config.dataset.root == "/data"
    if name == "tail_weight":
        assert config.loss.tail_weight == 0.1
    if name == "scale_context_kernel":
        assert config.model.scale_context_kernel is None
    if name == "search":
        assert content["run_cap"] == 30
        assert content["parameters"]["optimizer.lr"] == {
            "distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3,
        }  # fmt: skip
        assert content["parameters"]["model.dia_blocks"] == {"values": [1, 2, 3, 4, 5]}


def test_agent_trains_a_run_of_the_written_file(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ["bottle"], train=3, good=1, defect=1)
    overrides = [*TINY, "dataset=folder", f"dataset.root={tree}", "logger=[csv,wandb]", "masks=cropped"]
    monkeypatch.chdir(tmp_path)
    assert main(["wandb-sweep", "tail_weight", *overrides]) == 0
    assert "wandb agent SWEEP_ID" in capsys.readouterr().out
    content = yaml.safe_load((tmp_path / "wandb-sweep-tail_weight.yaml").read_text())
    command = agent_command(content, 1)
    agent = (
        "import os; os.environ |= {'WANDB_SWEEP_ID': 'sweep1', 'WANDB_RUN_ID': 'agentrun1', 'WANDB_MODE': 'offline'}"
    )
    process = processes.run(*command[2:], f"hydra.run.dir={tmp_path / 'run'}", setup=agent)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run/run_id.txt").read_text().strip() == "agentrun1"
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["loss"]["tail_weight"] == 0.2
    assert "Ignoring" not in process.stdout + process.stderr


def test_wrong_sweeps_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb-sweep", "tail_wieght"]) == 1
    assert "Did you mean 'tail_weight'?" in capsys.readouterr().err
    with pytest.raises(UserError, match="several values"):
        wandb_sweep("tail_weight", ["seed=0,1"])
    with pytest.raises(UserError, match="logger"):
        wandb_sweep("tail_weight", ["logger=csv"])
