"""A model as a folder, and back; :mod:`moleflow.store` says what the folder looks like."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from moleflow.calibration import ScoreScale
from moleflow.errors import UserError
from moleflow.routing import FeatureStatistics
from moleflow.scored import SeenPictures
from moleflow.store import ExpertStore

if TYPE_CHECKING:
    from moleflow.model import MoLEFlow


def expert_state(model: "MoLEFlow", name: str) -> dict[str, Tensor]:
    """Return all that an expert owns, as tensors by name."""
    parts: dict[str, Mapping[str, Tensor]] = {"flow": model.flow.expert_state(name)}
    if name in model.seen:
        parts["seen"] = model.seen[name]._asdict()  # and what the router knows follows from the features in it
    else:
        parts["router"] = model.router.statistics(name).state()
    if name in model.scales:
        parts["scale"] = model.scales[name].state()
    return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}


def load_expert(model: "MoLEFlow", name: str, note: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Create an expert from its note and from what :func:`expert_state` returned."""
    model.add_expert(name, note["categories"], note.get("settings"))
    model.notes[name] = dict(note)
    model.flow.load_expert_state(name, _part(tensors, "flow."))
    if seen := _part(tensors, "seen."):
        model.seen[name] = SeenPictures(**seen)
        model.learn_route(name, model.seen[name].features)
    else:
        model.router.add(name, FeatureStatistics.from_state(_part(tensors, "router.")))
    if scale := _part(tensors, "scale."):
        model.scales[name] = ScoreScale.from_state(scale)


def save(model: "MoLEFlow", folder: Path) -> None:
    """Write the model folder."""
    experts = {name: expert_state(model, name) for name in model.flow.names}
    settings = {**model.settings, "backbone_spec": model.backbone_spec}
    ExpertStore(folder).save(settings, model.flow.base_state(), experts, model.notes)


def restore(model: "MoLEFlow", folder: Path, experts: Sequence[str] | None = None) -> None:
    """Load base and experts from a model folder; see :meth:`moleflow.model.MoLEFlow.restore`."""
    store = ExpertStore(folder)
    if store.manifest()["settings"]["backbone_spec"] != model.backbone_spec:
        raise UserError(f"{folder} was learned on other backbone weights than the ones loaded now.")
    notes = store.notes()
    lost = set(experts or ()) - notes.keys()
    if lost:
        raise UserError(f"{store.manifest_path} lists no expert named {', '.join(sorted(lost))}.")
    for name, note in notes.items():
        if experts is None or name in experts:
            load_expert(model, name, note, store.expert(name))
    model.flow.load_base_state(store.base())
    model.forget_merged()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
