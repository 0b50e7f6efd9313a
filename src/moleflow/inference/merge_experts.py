"""Merging of experts: one model folder from experts of several runs that share a base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from moleflow.detector.folders import model_folder
from moleflow.detector.schema import FolderRules
from moleflow.detector.store import ModelStore
from moleflow.utils.config import flatten_config
from moleflow.utils.errors import UserError

_PERFORMANCE_KEYS = ("features.batch_size",)  # settings that affect speed only


def merge_experts(sources: Sequence[tuple[Path, Sequence[str]]], out: Path) -> list[str]:
    """Copy experts into a new model folder, bit for bit, and return their names.

    Args:
        sources: Run or model folders, and the experts to copy of each; an empty sequence copies all that no earlier
            source has.
        out: The new model folder.

    Raises:
        UserError: If the models differ in base or settings, an expert is missing or given twice, a file is damaged,
            or ``out`` has a model already. Nothing is written then.
    """
    if (out / "manifest.json").exists():
        raise UserError(f"{out} has a model already. Choose another folder.")
    stores = [(ModelStore(model_folder(path)), path, names) for path, names in sources]
    first, first_path, _ = stores[0]
    reference = first.manifest()
    chosen: dict[str, tuple[ModelStore, dict[str, Any]]] = {}
    rules: dict[ModelStore, FolderRules] = {}
    for store, path, names in stores:
        manifest = store.manifest()
        rules[store] = FolderRules(store)
        _check_compatible(reference, manifest, first_path, path)
        available = {str(entry["name"]): entry for entry in manifest["experts"]}
        for name in names or [name for name in available if name not in chosen]:
            if name not in available:
                raise UserError(f"{path} has no expert {name!r}. Its experts: {', '.join(available)}.")
            if name in chosen:
                raise UserError(f"Expert {name!r} is given by {chosen[name][0].folder} and by {path}. Give it once.")
            chosen[name] = (store, available[name])
    order = _construction_order(reference, chosen)
    experts = {name: _read_expert(chosen[name][0], name, rules[chosen[name][0]]) for name in order}
    entries = {name: {k: v for k, v in chosen[name][1].items() if k not in ("name", "file")} for name in order}
    ModelStore(out).save(reference["settings"], first.base(rules[first].base), experts, entries)
    return order


def _read_expert(store: ModelStore, name: str, rules: FolderRules) -> dict[str, Tensor]:
    """Return the tensors of an expert in the format that is written."""
    tensors = store.expert(name, rules.experts[name])
    return {"training.maxima": tensors["training.scores"], **tensors}  # format 1 has no maxima


def _check_compatible(a: dict[str, Any], b: dict[str, Any], a_path: Path, b_path: Path) -> None:
    left, right = (flatten_config(manifest["settings"]) for manifest in (a, b))
    differences = [
        f"{key}: {right.get(key)!r} instead of {left.get(key)!r}"
        for key in sorted({*left, *right} - {*_PERFORMANCE_KEYS})
        if left.get(key) != right.get(key)
    ]
    if differences:
        raise UserError(f"{b_path} cannot be merged with {a_path}: the settings differ in {', '.join(differences)}.")
    if a["files"][a["base"]]["sha256"] != b["files"][b["base"]]["sha256"]:
        raise UserError(
            f"{b_path} cannot be merged with {a_path}: the bases differ, and an expert requires the base that it was "
            "trained on. Train both runs from one base."
        )


def _construction_order(reference: dict[str, Any], chosen: dict[str, tuple[ModelStore, dict[str, Any]]]) -> list[str]:
    """Return the experts in an order in which the patch model can build them.

    With ``adapter=soft_norm`` or ``base=separate`` the first expert of a run has another architecture than the later
    ones, so exactly one such expert is required, in first place.
    """
    first_experts = [name for name, (store, _) in chosen.items() if store.manifest()["experts"][0]["name"] == name]
    model = reference["settings"]["model"]
    adapters = {entry.get("overrides", {}).get("model", {}).get("adapter") for _, entry in chosen.values()}
    special = "soft_norm" in {model.get("adapter"), *adapters} or model.get("base") == "separate"
    if special and len(first_experts) != 1:
        raise UserError(
            "model.adapter=soft_norm and model.base=separate require exactly one run's first expert, not "
            f"{len(first_experts)}."
        )
    return [*first_experts, *(name for name in chosen if name not in first_experts)]
