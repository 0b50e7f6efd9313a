"""The image data set and its loader: items, order, random state and errors of unreadable images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.layouts import read_samples
from helpers.trees import write_mvtec_tree
from moleflow.data.dataset import ImageDataset, image_loader
from moleflow.data.image_io import ImageError, read_image, read_mask
from moleflow.data.samples import Sample
from moleflow.data.transforms import FlippedTransform, ImageTransform

TRANSFORM = ImageTransform(32)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return read_samples(write_mvtec_tree(tmp_path, ("nut",), size=(40, 56)), ["nut"])


def test_item_of_a_sample(samples: list[Sample]) -> None:
    item = ImageDataset(samples, TRANSFORM, masks=True)[11]
    assert samples[11].mask is not None
    assert torch.equal(item["image"], TRANSFORM(read_image(samples[11].path)))
    assert torch.equal(item["mask"], TRANSFORM.mask(read_mask(samples[11].mask)))
    assert (int(item["label"]), int(item["index"])) == (1, 11)
    assert not ImageDataset(samples, TRANSFORM)[11]["mask"].any()


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_read_with_the_range_of_the_transform(tmp_path: Path, flip: bool) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (40, 40), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values / 4095 * 255).round().astype(np.uint8)).save(tmp_path / "plain.png")

    def read(name: str, transform: ImageTransform) -> torch.Tensor:
        flipped = FlippedTransform(transform, "rotate_90") if flip else transform
        return ImageDataset([tmp_path / name], flipped)[0]["image"]

    ranged = ImageTransform(32, input_range=[0, 4095])
    assert torch.equal(read("deep.png", ranged), read("plain.png", TRANSFORM))
    assert torch.equal(read("plain.png", ranged), read("plain.png", TRANSFORM))
    assert not torch.equal(read("deep.png", TRANSFORM), read("plain.png", TRANSFORM))


def test_label_of_a_path_is_unknown(samples: list[Sample]) -> None:
    item = ImageDataset([samples[0].path], TRANSFORM, masks=True)[0]
    assert torch.equal(item["image"], TRANSFORM(read_image(samples[0].path)))
    assert not item["mask"].any()
    assert int(item["label"]) == -1


def test_image_and_mask_are_flipped_together(samples: list[Sample]) -> None:
    flipped = ImageDataset(samples, FlippedTransform(TRANSFORM, "flip_left_right"), masks=True)[11]
    plain = ImageDataset(samples, TRANSFORM, masks=True)[11]
    assert plain["mask"].any()
    assert torch.equal(flipped["mask"], plain["mask"].flip(-1))
    torch.testing.assert_close(flipped["image"], plain["image"].flip(-1), atol=0.05, rtol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_in_the_order_of_the_images(samples: list[Sample], num_workers: int) -> None:
    loader = image_loader(samples, TRANSFORM, masks=True, batch_size=5, num_workers=num_workers)
    batches = list(loader)
    assert [len(batch["index"]) for batch in batches] == [5, 5, 2]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(12))
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [sample.label for sample in samples]
    first = batches[0]
    assert (first["image"].shape, first["image"].dtype) == ((5, 3, 32, 32), torch.float32)
    assert (first["mask"].shape, first["mask"].dtype) == ((5, 32, 32), torch.bool)
    assert first["label"].dtype == first["index"].dtype == torch.int64
    for batch in batches:
        for image, mask, index in zip(batch["image"], batch["mask"], batch["index"], strict=True):
            item = loader.dataset[int(index)]
            assert torch.equal(image, item["image"])
            assert torch.equal(mask, item["mask"])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_loader_of_no_images_has_no_batches(num_workers: int, shuffle: bool) -> None:
    assert list(image_loader([], TRANSFORM, num_workers=num_workers, shuffle=shuffle)) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_raises_its_error_unchanged(samples: list[Sample], num_workers: int) -> None:
    path = samples[3].path
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError) as caught:
        list(image_loader(samples, TRANSFORM, batch_size=2, num_workers=num_workers))
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} cannot be read as an image")
    assert "Traceback" not in str(caught.value)
    with pytest.raises(ImageError, match="Replace the file"):
        ImageDataset(samples, TRANSFORM)[3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_does_not_change_the_global_random_state(samples: list[Sample], num_workers: int) -> None:
    state = torch.get_rng_state()
    list(image_loader(samples, TRANSFORM, num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_shuffled_order_depends_on_the_generator(samples: list[Sample]) -> None:
    def order(generator: torch.Generator | None) -> list[int]:
        loader = image_loader(samples, TRANSFORM, generator=generator, shuffle=True)
        return [int(index) for batch in loader for index in batch["index"]]

    first = order(torch.Generator().manual_seed(1))
    assert first == order(torch.Generator().manual_seed(1))
    assert first != order(torch.Generator().manual_seed(2))
    assert sorted(first) == list(range(12))
    torch.manual_seed(3)
    by_global_state = order(None)
    torch.manual_seed(3)
    assert order(None) == by_global_state
