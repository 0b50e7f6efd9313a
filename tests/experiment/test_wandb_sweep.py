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
from moleflow.experiment.wandb_sweep import sweep_parameters, wandb_sweep
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
def test_parameters_have_all_values_of_the_sweep(name: str) -> None:
    params = yaml.safe_load((CONF / f"sweep/{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    parameters, is_appended = sweep_parameters(params)
    assert list(parameters) == [key.removeprefix("+") for key in params]
    assert is_appended == next(iter(params)).startswith("+")
    for key, value in params.items():
        parameter, text = parameters[key.removeprefix("+")], str(value)
        if "interval" in text:
            assert set(parameter) == {"distribution", "min", "max"}
        elif "(" not in text:
            words = [word.strip() for word in text.split(",")]
            expected = [str(float(word)) if re.fullmatch(r"\de-\d", word) else word for word in words]
            assert list(map(str, parameter["values"])) == expected


def test_values_are_written_as_hydra_parses_them() -> None:
    params = {"a": "null,3", "b": "true,1e-4", "c": "range(1,4)", "d": "tag(log, interval(1e-4, 1e-3))", "e": "'x,y'"}
    assert sweep_parameters(params)[0] == {
        "a": {"values": ["null", 3]}, "b": {"values": [True, 1e-4]}, "c": {"values": [1, 2, 3]},
        "d": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3}, "e": {"values": ["'x,y'"]},
    }  # fmt: skip
    assert list(sweep_parameters({"+ablation": "a,b", "seed": "0,1"})[0]) == ["+ablation", "seed"]


def test_command_of_the_agent_composes_one_run() -> None:
    content = wandb_sweep("ablations", ["dataset.root=/data"])
    assert (content["method"], content["metric"]) == ("grid", {"name": "pixel_ap", "goal": "maximize"})
    command = agent_command(content)
    assert command[:4] == ["moleflow", "train", "+sweep=ablations", "hydra.mode=RUN"]
    config = compose_config(command[2:])
    assert config.hydra.mode.name == "RUN"
    assert (list(config.logger), config.dataset.root) == (["wandb"], "/data")
    assert config.hydra.runtime.choices.ablation == "wo_lora"


def test_a_search_is_bayesian() -> None:
    pytest.importorskip("optuna")
    minimum = ["objective=[seconds.training,pixel_ap]", "hydra.sweeper.direction=[minimize,maximize]"]
    content = wandb_sweep("search", ["dataset.root=/data", *minimum])
    assert (content["method"], content["run_cap"]) == ("bayes", 30)
    assert content["metric"] == {"name": "seconds.training", "goal": "minimize"}
    assert compose_config(agent_command(content)[2:]).optimizer.lr == 1e-4


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
