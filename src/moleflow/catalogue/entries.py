"""The catalogue's entries: every experiment and every ablation, as the config folder has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from moleflow.catalogue.records import experiment_rows
from moleflow.composing import composed
from moleflow.training.run_folder import BEFORE, CIRCUMSTANCES, is_any_of
from moleflow.values import flat

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")
# A run of the same configuration may have another name, lie elsewhere and draw other numbers.
_IGNORED = ("name", "seed", "model.seed", "dataset.root", *CIRCUMSTANCES)


@dataclass(frozen=True)
class Entry:
    """An experiment, or an ablation of the default configuration.

    Attributes:
        kind: ``experiment`` or ``ablation``.
        name: What is written after ``+experiment=`` or ``+ablation=``.
        group: Whose seed noise it shares; empty where nothing is recorded.
        description: One sentence.
        target: The recorded or proposed metrics as (low, high); equal where one number is known.
        compare: Whether a run made here is held against the target.
        note: Why not, or what is uncertain.
        composed: Whether the configuration is more than its row: parts are left out.
    """

    kind: str
    name: str
    group: str
    description: str
    target: dict[str, tuple[float, float]]
    compare: bool
    note: str
    composed: bool

    @property
    def overrides(self) -> list[str]:
        """What selects the entry on the command line."""
        return [f"+{self.kind}={self.name}"]


def entries(conf: Path) -> list[Entry]:
    """Return all entries, experiments first, by name."""
    return [_entry(path) for kind in ("experiment", "ablation") for path in sorted((conf / kind).glob("*.yaml"))]


def resolved(conf: Path, overrides: list[str]) -> dict[str, Any]:
    """Return the resolved configuration that a command line gives, without what only watches a run.

    Raises:
        hydra.errors.HydraException: If it cannot be composed.
    """
    config = composed(overrides, conf)
    watching = ("hydra", "logger", "callbacks")  # these ask Hydra for the run folder
    parts = [str(part) for part in config if part not in watching]
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.masked_copy(config, parts), resolve=True))


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved configuration that decides what is measured, as dotted keys."""
    return {key: value for key, value in (BEFORE | flat(config)).items() if not is_any_of(key, _IGNORED)}


def _entry(path: Path) -> Entry:
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    kind, name = path.parent.name, path.stem
    block = content.get("reported") or content.get("expected") or {}
    target = {}
    for metric in METRICS:
        value = block.get(metric)
        if value is not None:
            low, high = value if isinstance(value, list) else (value, value)
            target[metric] = (float(low), float(high))
    if kind == "experiment":
        group = experiment_rows().get(name, {}).get("group", "")
        description = str(content.get("description") or _comment(path))
    else:
        group, description = "mole6_dia2", _comment(path)
    return Entry(
        kind=kind,
        name=name,
        group=group,
        description=description,
        target=target,
        compare=bool(block.get("compare", True)) and bool(target),
        note=str(block.get("note") or ""),
        composed=any("/ablation/" in str(item) for item in content.get("defaults", ())),
    )


def _comment(path: Path) -> str:
    """Return the first sentence of a config's comment: what follows the command."""
    lines = [line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    text = " ".join(line for line in lines if line and not line.startswith(("@", "python ")))
    return text.split(". ")[0].rstrip(".") + "."
