"""Turned training pictures: what they are, and that each counts as the picture that it shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.data import PictureTransform
from moleflow.data.turns import AUGMENTATIONS, TurnedTransform
from moleflow.errors import UserError
from moleflow.randomness import generator
from moleflow.rivals import PatchMemory, PatchMixture


def picture(width: int = 40, height: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def turned(array: np.ndarray) -> dict[str, np.ndarray]:
    """Return an array (H, W, ...) in the seven other ways, by numpy."""
    flipped = array.swapaxes(0, 1)
    return {
        "flip_left_right": array[:, ::-1],
        "flip_top_bottom": array[::-1],
        "rotate_90": np.rot90(array),
        "rotate_180": np.rot90(array, 2),
        "rotate_270": np.rot90(array, 3),
        "transpose": flipped,
        "transverse": flipped[::-1, ::-1],
    }


@pytest.mark.parametrize("turn", AUGMENTATIONS["all"])
@pytest.mark.parametrize("size", [16, (12, 20)])
def test_a_turned_picture_is_seen_as_if_its_file_were_turned(turn: str, size: int | tuple[int, int]) -> None:
    transform = PictureTransform(size)
    expected = transform(Image.fromarray(np.ascontiguousarray(turned(np.asarray(picture()))[turn])))
    assert torch.equal(TurnedTransform(transform, turn)(picture()), expected)


def test_each_turn_has_features_of_its_own_in_the_cache() -> None:
    transform = PictureTransform(16)
    specs = [str(transform.spec()), *(str(TurnedTransform(transform, turn).spec()) for turn in AUGMENTATIONS["all"])]
    assert len(set(specs)) == 8


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_ways_of_a_choice_lead_nowhere_but_to_one_another(augmentation: str) -> None:
    """So no way in which a picture lies is favoured: each choice is a group."""
    square = np.arange(9).reshape(3, 3)

    def ways(array: np.ndarray) -> set[bytes]:
        return {array.tobytes(), *(turned(array)[turn].tobytes() for turn in AUGMENTATIONS[augmentation])}

    assert len(ways(square)) == {"none": 1, "flips": 4, "rotations": 4, "all": 8}[augmentation]
    for turn in AUGMENTATIONS[augmentation]:
        assert ways(np.ascontiguousarray(turned(square)[turn])) == ways(square)


def grids(count: int) -> Tensor:
    return torch.randn(count, 4, 5, 8, generator=generator(0, "turns"))


def test_a_training_picture_is_not_recognised_by_its_own_turned_patches() -> None:
    model, x = PatchMemory(8, size=10**6), grids(3)
    model.add_expert("a")
    model.fit("a", [x, x.flip(1)], torch.arange(6) % 3)  # every patch of the turned ones is a copy
    rows, of = x.flatten(0, 2).double().numpy(), np.repeat(np.arange(3), 20)
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    distances[of[:, None] == of] = np.inf
    scores = model.patch_scores(x, "a", torch.arange(3)).flatten().double()
    torch.testing.assert_close(scores, torch.tensor(distances.min(1)), rtol=1e-4, atol=1e-4)


def test_what_is_left_beside_the_nearest_is_measured_between_different_pictures() -> None:
    model, x = PatchMixture(8, size=10**6, blur=0.0), grids(3)
    model.add_expert("a")
    model.fit("a", [x, x.flip(1)], torch.arange(6) % 3)
    plain = PatchMixture(8, size=10**6, blur=0.0)
    plain.add_expert("a")
    plain.fit("a", [x])
    # Copies change neither the metric nor what is left beside other pictures' patches.
    white, expected = (m.expert("a").get_buffer("whitening") for m in (model, plain))
    torch.testing.assert_close(white @ white.T, expected @ expected.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", ["mixture", "patchcore", "whitened_memory", "moleflow", "padim"])
def test_a_run_learns_pictures_as_they_lie_and_turned(model: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    shape = [] if model == "moleflow" else ["epochs=1"]
    tiny = [key for key in TINY if model == "moleflow" or not key.startswith("model.")]
    overrides = ["dataset=folder", f"dataset.root={root}", *tiny, f"model={model}", *shape]

    def run(name: str, *more: str) -> tuple[dict, MoLEFlow]:
        metrics = run_program([*overrides, *more], tmp_path / name)
        return metrics, MoLEFlow.load(tmp_path / name)

    plain, one = run("plain")
    metrics, two = run("turned", "+per_category.screw.augmentation=all")
    for a, b in zip(one.expert_state("bottle").values(), two.expert_state("bottle").values(), strict=True):
        assert torch.equal(a, b)
    state, other = one.flow.expert_state("screw"), two.flow.expert_state("screw")
    assert any(a.shape != other[key].shape or not torch.equal(a, other[key]) for key, a in state.items())
    pictures = metrics["per_category"]["screw"]["train_pictures"]
    assert pictures == plain["per_category"]["screw"]["train_pictures"]
    assert len(two.seen["screw"].scores) == pictures  # what is normal is told by pictures as they lie
    if "pictures" in other:
        assert set(other["pictures"].tolist()) <= set(range(pictures))
    if model == "moleflow":
        steps = [-(-count // 4) * 2 for count in (pictures, 8 * pictures)]
        assert metrics["training"]["steps"] - plain["training"]["steps"] == steps[1] - steps[0]


@pytest.mark.parametrize("key", ["augmentation=flip", "+per_category.screw.augmentation=flip"])
def test_an_unknown_choice_is_named_before_anything_is_computed(key: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    with pytest.raises(UserError, match=rf"{key.split('=')[0].lstrip('+')}=flip is unknown.*flips"):
        run_program(["dataset=folder", f"dataset.root={root}", *TINY, key], tmp_path / "run")
