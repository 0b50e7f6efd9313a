"""Every experiment, ablation and sweep composes and equals its row of the recorded and proposed tables."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from helpers.composing import CONF, once
from moleflow.catalogue.records import SETTINGS, config_settings, experiment_rows, proposed, recorded, row_settings
from moleflow.detector.registry import build_component

ROWS = experiment_rows()
ABLATIONS = {
    "wo_lora": {"model.lora_rank": 0}, "wo_router": {"router.oracle": True}, "wo_adapter": {"model.adapter": "none"},
    "wo_whitening": {"model.adapter": "soft_norm"}, "wo_pos_embed": {"model.position_code": False},
    "wo_spatial_ctx": {"model.spatial_context_mode": "none"}, "wo_scale_ctx": {"model.scale_context_kernel": None},
    "wo_dia": {"model.dia_blocks": 0}, "wo_tail_loss": {"loss.tail_weight": 0.0},
    "wo_logdet": {"loss.lambda_logdet": 0.0},
    "sequential": {"model.base": "trainable"}, "separated": {"model.base": "separate"},
    "dia_only": {"model.coupling_layers": 0}, "moleflow_only": {"model.dia_blocks": 0},
}  # fmt: skip
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def configs() -> dict[str, dict[str, Any]]:
    """Return the resolved configuration of every experiment."""
    return {name: once(f"+experiment={name}") for name in names("experiment")}


def test_all_runs_of_the_report_have_experiments() -> None:
    assert sum(row["in_report"] == "yes" for row in recorded()) == 56
    assert all(row["experiment"] for row in recorded() if row["in_report"] == "yes")
    assert len(proposed()) == 23
    assert all(row["experiment"] for row in proposed())
    assert set(ROWS) <= set(names("experiment"))


@pytest.mark.parametrize("name", sorted(ROWS))
def test_experiment_equals_its_row(name: str, configs: dict[str, dict[str, Any]]) -> None:
    row, config = ROWS[name], configs[name]
    assert config["name"] == name
    assert config["description"]
    expected = dict(zip(SETTINGS, row_settings(row), strict=True))
    settings = dict(zip(SETTINGS, config_settings(config), strict=True))
    if name in ABLATIONS:  # the table has no columns for most of the disabled components
        base = configs["report_base"]
        expected = dict(zip(SETTINGS, config_settings(_ablated(base, name)), strict=True))
        assert _without_description(config) == _without_description(_ablated(base, name))
    assert settings == expected
    build_component("loss", config["loss"])
    build_component("scoring", config["scoring"])
    if "recorded_name" in row:
        reported = config["reported"]
        assert config["expected"] is None
        assert reported["run"] == row["recorded_name"]
        assert {key: reported[key] for key in METRICS} == {key: float(row[key]) for key in METRICS}
        assert reported["compare"] is (row["compared"] == "yes")
        assert bool(reported["note"]) is bool(row["note"] or row["unknown"])
    else:
        assert config["reported"] is None
        assert config["expected"]["run"] == row["proposed_name"]
        for metric in ("image_auroc", "pixel_ap"):
            low, high = row[f"{metric}_low"], row[f"{metric}_high"]
            proposal = None if not low else float(low) if low == high else [float(low), float(high)]
            assert config["expected"][metric] == proposal


def test_the_default_configuration_equals_the_main_experiment(configs: dict[str, dict[str, Any]]) -> None:
    assert _without_description(configs["mole6_dia2"]) == _without_description(once("view=paper"))


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_experiment_file_starts_with_its_command_and_has_no_redundant_values(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"  # Hydra requires it in the first line
    assert re.match(rf"# moleflow train \+experiment={re.escape(path.stem)}( |$)", lines[1])
    group = next((str(d) for d in OmegaConf.load(path).get("defaults", []) if str(d).startswith("group/")), None)
    if path.stem in ROWS and path.stem not in ABLATIONS:
        base = once(*([] if group is None else [f"+experiment={group}"]))
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        for section in ("model", "optimizer", "scoring"):
            for key, value in content.get(section, {}).items():
                assert base[section][key] != value, f"{section}.{key} equals the value of the group"


@pytest.mark.parametrize("ablation", names("ablation"))
@pytest.mark.parametrize("experiment", ["tailw0.8", "visa_vit_base"])
def test_ablation_changes_only_its_component(
    ablation: str, experiment: str, configs: dict[str, dict[str, Any]]
) -> None:
    config = once(f"+experiment={experiment}", f"+ablation={ablation}")
    assert _without_description(config) == _without_description(_ablated(configs[experiment], ablation))
    assert config["name"] == experiment
    assert config["reported"] is None or config["reported"]["run"] != ROWS[experiment]["recorded_name"]


@pytest.mark.parametrize("ablation", names("ablation"))
def test_ablation_has_the_record_of_the_main_experiment(ablation: str) -> None:
    reported = OmegaConf.load(CONF / "ablation" / f"{ablation}.yaml")["reported"]
    if reported is None:
        return
    row = next(row for row in recorded() if row["recorded_name"] == reported["run"])
    assert {key: reported[key] for key in METRICS} == {key: float(row[key]) for key in METRICS}
    if reported["compare"]:
        assert row["group"] == "mole6_dia2"
    else:
        assert reported["note"]


def test_all_ablations_are_tested() -> None:
    assert set(names("ablation")) == set(ABLATIONS)


@pytest.mark.parametrize("sweep", names("sweep"))
def test_sweep_composes_for_each_of_its_values(sweep: str) -> None:
    path = CONF / "sweep" / f"{sweep}.yaml"
    assert path.read_text(encoding="utf-8").splitlines()[1].startswith(f"# moleflow train -m +sweep={sweep} ")
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    assert set(content) <= {"defaults", "hydra"}, (
        "+sweep is not part of the run folder's name, so it must not set other keys"
    )
    assert content["hydra"]["mode"] == "MULTIRUN"
    params = content["hydra"]["sweeper"]["params"]
    jobs = jobs_of(params)
    assert len(jobs) > 1
    if sweep == "search":  # its values are intervals
        assert all(OmegaConf.select(OmegaConf.create(once()), key) is not None for key in params)
        return
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for job in (jobs[0], jobs[-1]):
            config = compose("config", [f"+sweep={sweep}", *job])
            build_component("loss", OmegaConf.to_container(config.loss))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sweep", "recorded_runs"),
    [
        (
            "tail_weight",
            ["TailW0.55-TopK5-LogdetReg1e-4", "TailW0.6-TopK5-LogdetReg1e-4", "TopK5-TailW0.5-LogdetReg1e-4"],
        ),
        ("tail_top_k_ratio", [f"TailW0.5-TailTopK{n}-TopK5-LogdetReg1e-4" for n in (3, 7)]),
        ("lambda_logdet", ["LogdetReg1e-6", "60ep-lr2e4-dia4", "LogdetReg1e-4"]),
        (
            "scale_context_kernel",
            ["TopK5-TailW0.5-LogdetReg1e-4-ScaleCtxK5", "TopK5-TailW0.5-LogdetReg1e-4-ScaleCtxK7"],
        ),
        ("dia_blocks", ["DIA2", "DIA6", "DIA7", "DIA8"]),
        ("lora_rank", ["LoRA32", "LoRA128", "LoRA256"]),
        ("coupling_layers", ["Coupling12", "Coupling16"]),
        ("lr", ["lr1e-4", "lr3e-4"]),
        ("score_top_k", [f"TopK{n}-TailW0.5-LogdetReg1e-4" for n in (3, 5, 7)]),
    ],
)
def test_sweep_includes_the_recorded_runs(sweep: str, recorded_runs: list[str]) -> None:
    content = OmegaConf.load(CONF / "sweep" / f"{sweep}.yaml")
    base = OmegaConf.create(once(f"+sweep={sweep}"))
    settings = set()
    for (job,) in jobs_of(content.hydra.sweeper.params):
        config = OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist([job])))
        settings.add(config_settings(config))  # type: ignore[arg-type]
    for name in recorded_runs:
        row = next(row for row in recorded() if row["recorded_name"] == f"MVTec-WRN50-{name}")
        assert row_settings(row) in settings, name


@pytest.mark.parametrize("sweep", ["recommended_mvtec", "recommended_visa"])
def test_recommendations_have_the_order_of_the_report(sweep: str) -> None:
    dataset = sweep.removeprefix("recommended_")
    params = OmegaConf.load(CONF / "sweep" / f"{sweep}.yaml").hydra.sweeper.params
    proposals = [f"+experiment={row['experiment']}" for row in proposed() if row["dataset"] == dataset]
    assert [job[0] for job in jobs_of(params)] == proposals


def jobs_of(params: Any) -> list[list[str]]:
    """Return the overrides of each job of a grid sweep."""
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    axes = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()] if not o.is_interval_sweep() else [""] * 2
        for o in parsed
    ]
    return [list(job) for job in product(*axes)]


def _without_description(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("name", "description", "reported", "expected")}


def _ablated(config: dict[str, Any], ablation: str) -> dict[str, Any]:
    ablated = OmegaConf.create(config)
    for key, value in ABLATIONS[ablation].items():
        assert OmegaConf.select(ablated, key, default="absent") != "absent"
        OmegaConf.update(ablated, key, value)
    return OmegaConf.to_container(ablated)  # type: ignore[return-value]
