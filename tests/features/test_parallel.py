"""Tests of the computation of items by several threads."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.trees import fake_image
from moleflow.data.transforms import ImageTransform
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import NullFeatureCache
from moleflow.features.extractor import FeatureExtractor
from moleflow.features.parallel import map_on_threads

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set torch's number of threads, which must be the same after the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def test_results_are_in_the_order_of_the_items(threads: int) -> None:
    names = set()

    def square(number: int) -> int:
        names.add(threading.current_thread().name)
        assert torch.get_num_threads() == 1
        time.sleep(0.01 if number % 2 else 0)
        return number * number

    assert list(map_on_threads(square, range(12), CPU)) == [i * i for i in range(12)]
    assert (names == {threading.current_thread().name}) == (threads == 1)


def test_few_items_are_taken_ahead(threads: int) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_on_threads(lambda number: number, numbers(), CPU)
    assert next(results) == 0
    results.close()
    assert len(taken) <= 2 * threads + 1


def test_error_of_an_item_is_raised_after_the_results_before_it(threads: int) -> None:
    results = map_on_threads(lambda number: 1 / (3 - number), range(6), CPU)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_features_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path in paths:
        fake_image("bottle", path.name)[0].save(path)
    before, features = torch.get_num_threads(), []
    for number in (1, 3):
        torch.set_num_threads(number)
        backbone = PatchBackbone("test_resnet", ["layer1", "layer2"], 16, pretrained=False)
        features.append(FeatureExtractor(backbone, ImageTransform(64), NullFeatureCache()).features(paths))
    torch.set_num_threads(before)
    assert torch.equal(*features)
