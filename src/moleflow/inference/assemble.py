"""One model folder from experts of several runs that share a base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moleflow.errors import UserError
from moleflow.store import ExpertStore, model_folder
from moleflow.values import flat

_NO_MATTER = ("score_batch",)  # settings that say how fast, not what


def assemble(sources: Sequence[tuple[Path, Sequence[str]]], out: Path) -> list[str]:
    """Copy experts into a new model folder and return their names; their tensors keep every bit.

    Args:
        sources: Model folders (or run folders) and the experts to take; none means all that are not there yet.
        out: The new model folder.

    Raises:
        UserError: If the models do not share base and settings, an expert is missing or comes twice, a file is
            damaged, or ``out`` holds a model already. Nothing is written then.
    """
    if (out / "manifest.json").exists():
        raise UserError(f"{out} holds a model already. Choose another folder.")
    opened = [(ExpertStore(model_folder(path)), path, names) for path, names in sources]
    first, first_path, _ = opened[0]
    reference = first.manifest()
    taken: dict[str, tuple[ExpertStore, dict[str, Any]]] = {}
    for store, path, names in opened:
        manifest = store.manifest()
        _check_alike(reference, manifest, first_path, path)
        listed = {str(entry["name"]): entry for entry in manifest["experts"]}
        for name in names or [name for name in listed if name not in taken]:
            if name not in listed:
                raise UserError(f"{path} has no expert {name!r}; it has {', '.join(listed)}.")
            if name in taken:
                raise UserError(
                    f"Expert {name!r} is asked for from {taken[name][0].folder} and from {path}. Name it once."
                )
            store.expert(name)  # reads and checks it
            taken[name] = (store, listed[name])
    ordered = _first_first(reference, taken)
    experts = {name: taken[name][0].expert(name) for name in ordered}
    notes = {
        name: {key: value for key, value in taken[name][1].items() if key not in ("name", "file")} for name in ordered
    }
    ExpertStore(out).save(reference["settings"], first.base(), experts, notes)
    return ordered


def _check_alike(a: dict[str, Any], b: dict[str, Any], a_path: Path, b_path: Path) -> None:
    left, right = (flat({k: v for k, v in of["settings"].items() if k not in _NO_MATTER}) for of in (a, b))
    differing = [
        f"{key}: {right.get(key)!r} instead of {left.get(key)!r}"
        for key in sorted({*left, *right})
        if left.get(key) != right.get(key)
    ]
    if differing:
        raise UserError(f"{b_path} cannot join {a_path}: their settings differ in {', '.join(differing)}.")
    if a["files"][a["base"]]["sha256"] != b["files"][b["base"]]["sha256"]:
        raise UserError(
            f"{b_path} cannot join {a_path}: their bases differ, and an expert works on the base alone "
            "that it was trained on. "
            "Train the second run on from the first one's base."
        )


def _first_first(reference: dict[str, Any], taken: dict[str, tuple[ExpertStore, dict[str, Any]]]) -> list[str]:
    """Return the experts in an order in which the flow can build them.

    The first expert of a run is built otherwise under ``soft_norm`` and ``separate``, so it has to be there and lead.
    """
    starters = [name for name, (store, _) in taken.items() if store.manifest()["experts"][0]["name"] == name]
    model = reference["settings"]["model"]
    adapters = {store_entry[1].get("settings", {}).get("model", {}).get("adapter") for store_entry in taken.values()}
    special = "soft_norm" in {model.get("adapter"), *adapters} or model.get("base") == "separate"
    if special and len(starters) != 1:
        raise UserError(
            f"With model.adapter=soft_norm or model.base=separate exactly one run's first expert is "
            f"needed, not {len(starters)}."
        )
    return [*starters, *(name for name in taken if name not in starters)]
