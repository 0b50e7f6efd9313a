"""Layout of MVTec AD: samples, and errors of missing or mismatched files."""

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.layouts import copy, counts, read_samples, unused
from helpers.trees import write_mvtec_tree
from moleflow.data.image_io import read_image, read_mask
from moleflow.data.layouts.checks import category_faults
from moleflow.data.layouts.detection import layout_of
from moleflow.data.layouts.names import LayoutNames
from moleflow.data.samples import Sample
from moleflow.utils.errors import UserError

REAL = Path(__file__).parents[4] / "shared" / "data" / "realad_mini"


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "mvtec", size=(32, 40))


def rename(folder: Path, old: str, new: str) -> None:
    for path in sorted(folder.rglob(old)):
        path.rename(path.with_name(new.format(stem=path.stem, image_stem=path.stem.removesuffix("_mask"))))


def test_layout_of_mvtec(mvtec: Path) -> None:
    samples = read_samples(mvtec, ["screw", "bottle"])
    assert counts(samples) == [12, 0, 6, 6]
    assert [s.category for s in samples] == ["screw"] * 12 + ["bottle"] * 12
    assert samples[0] == Sample(mvtec / "screw/train/good/000.png", "screw", "train", "good", None)
    last = samples[-1]
    assert last == Sample(
        mvtec / "bottle/test/spot/000.png", "bottle", "test", "spot", mvtec / "bottle/ground_truth/spot/000_mask.png"
    )
    assert samples == read_samples(mvtec, ["screw", "bottle"])
    assert all((s.mask is not None) == bool(s.label) for s in samples)


def test_masks_with_the_name_of_the_image_and_any_suffix_case(mvtec: Path) -> None:
    expected = counts(read_samples(mvtec, ["bottle"]))
    rename(mvtec / "bottle" / "ground_truth", "*_mask.png", "{image_stem}.PNG")
    rename(mvtec / "bottle" / "test", "*.png", "{stem}.Png")
    samples = read_samples(mvtec, ["bottle"])
    assert counts(samples) == expected
    assert {s.mask.name for s in samples if s.mask} == {"000.PNG", "001.PNG"}


def test_other_files_are_ignored(mvtec: Path) -> None:
    before = read_samples(mvtec, ["bottle"])
    for name in ("train/good/Thumbs.db", "test/notes.txt", "ground_truth/readme.md", "test/dent/.DS_Store.png"):
        (mvtec / "bottle" / name).write_text("no image")
    good = mvtec / "bottle/ground_truth/good"
    good.mkdir()
    Image.new("L", (40, 32)).save(good / "000_mask.png")
    (mvtec / ".cache" / "train").mkdir(parents=True)
    (mvtec / "license.txt").write_text("none")
    assert read_samples(mvtec, ["bottle"]) == before
    assert layout_of(mvtec).categories() == ("bottle", "screw")


def test_category_without_masks(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ["bottle"], masks=False)
    (root / "bottle" / "ground_truth" / "dent").mkdir(parents=True)
    samples = read_samples(root, ["bottle"])
    assert counts(samples) == [6, 0, 3, 3]
    assert not any(s.mask for s in samples)


def test_visa_in_the_layout_of_mvtec(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ["candle", "pcb1"])
    assert read_samples(root, ["pcb1"]) == read_samples(root, ["pcb1"])


def first(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def mask_size(root: Path) -> None:
    Image.new("L", (32, 32)).save(first(root, "bottle/ground_truth/dent/*"))


def mask_without_image(root: Path) -> None:
    first(root, "bottle/test/dent/*").unlink()


def mask_folder_without_images(root: Path) -> None:
    (root / "bottle/ground_truth/dent").rename(root / "bottle/ground_truth/bent")


def image_without_mask(root: Path) -> None:
    first(root, "bottle/ground_truth/dent/*").unlink()


def no_train_images(root: Path) -> None:
    for path in root.glob("bottle/train/good/*"):
        path.unlink()


def no_test_images(root: Path) -> None:
    (root / "bottle/test").rename(root / "bottle/tests")
    (root / "bottle/ground_truth").rename(root / "bottle/masks")


def broken_header(root: Path) -> None:
    first(root, "bottle/test/dent/*").write_bytes(b"\x89PNG but not really")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (mask_size, r"000_mask\.png has 32x32 pixels.*dent/000\.png has 40x32\. Replace it"),
        (
            mask_without_image,
            r"dent/000_mask\.png is not used: no test image has this mask\. The mask of test/DEFECT/NAME\.png is "
            r"ground_truth/DEFECT/NAME_mask\.png, NAME\.png.*Add the image, rename or remove",
        ),
        (
            mask_folder_without_images,
            r"2 files are not used: no test image has this mask, such as .*bent/000_mask\.png.*more faults: `moleflow",
        ),
        (
            image_without_mask,
            r"test/dent/000\.png has no mask.*Add the mask to ground_truth/dent: 000_mask\.png.*or remove all",
        ),
        (no_train_images, r"bottle has no train images\. Add some to bottle/train/good"),
        (no_test_images, r"6 files are not used: the folder tests looks like test, such as .*Rename it to test"),
        (broken_header, r"dent/000\.png cannot be read"),
    ],
)
def test_faults_of_mvtec_files_raise(mvtec: Path, fault: Callable[[Path], None], message: str) -> None:
    fault(mvtec)
    read_samples(mvtec, ["screw"])  # faults of other categories do not matter
    with pytest.raises(UserError, match=message):
        read_samples(mvtec, ["bottle"])


def test_missing_root_and_unknown_category_raise(tmp_path: Path, mvtec: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.root=.*nowhere must be a folder\. Set dataset\.root"):
        read_samples(tmp_path / "nowhere", ["bottle"])
    with pytest.raises(UserError, match=r"no category 'botle'\. It has: bottle, screw\. Did you mean 'bottle'\?"):
        read_samples(mvtec, ["botle"])
    with pytest.raises(UserError, match="has no category"):
        read_samples(mvtec / "bottle", ["bottle"])


def test_scan_returns_samples_and_all_faults(mvtec: Path) -> None:
    mask_folder_without_images(mvtec)
    scan = layout_of(mvtec).scan("bottle")
    assert counts(scan.samples) == [6, 0, 3, 3]
    assert [file.path.name for file in scan.unused] == ["000_mask.png", "001_mask.png"]


def test_all_faults_of_a_category_are_yielded(mvtec: Path) -> None:
    for fault in (mask_size, no_train_images):
        fault(mvtec)
    scan = layout_of(mvtec).scan("bottle")
    faults = [finding.message for finding in category_faults(scan)]
    assert len(faults) == 2
    assert "no train images" in faults[0]
    assert "32x32" in faults[1]
    assert len(list(category_faults(scan, size=lambda path: None))) == 1


IMAGE = "bottle/train/good/000.png"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["train/good/cam1/a.png", "train/good/cam1/b.png", "test/dent/cam2/a.png"],
            "warning 3 files are not used: images are read from train/good, test/good and test/<defect> directly, not "
            "from folders below, such as {}/test/dent/cam2/a.png. Move them up, or make each sub-folder a category.",
        ),
        (
            ["train/good/a.heic", "test/good/b.HEIC"],
            "warning 2 files are not used: the image format .heic is not supported, such as {}/test/good/b.HEIC. "
            "Convert the files to .png.",
        ),
        (["train/good/a.gif"], "warning {}/train/good/a.gif is not used: the image format .gif is not supported."),
        (["train/good/a.img"], "warning {}/train/good/a.img is not used: the suffix .img is not that of an image."),
        (["test/dent/a"], "warning {}/test/dent/a is not used: the name has no suffix. Rename images to the suffix"),
        (["train/good/Thumbs.db", "license.txt"], "note 2 files are not used: not an image, such as {}/license.txt."),
        (["train/bad/a.png"], "warning {}/train/bad/a.png is not used: no images are read from train/bad. Move"),
        (["validation/good/a.png"], "warning {}/validation/good/a.png is not used: no images are read from valid"),
        (["test/a.png"], "warning {}/test/a.png is not used: no images are read from test. Move them to train/good"),
        (["a.png"], "warning {}/a.png is not used: no images are read from the folder of a category."),
        (
            ["train/OK/a.png", "train/OK/b.png"],
            "error 2 files are not used: the folder train/OK looks like that of normal images, train/good, such as "
            "{}/train/OK/a.png. Rename it to good, or set dataset.normal_dir=OK.",
        ),
        (["ground_truth/good/000_mask.png"], "note {}/ground_truth/good/000_mask.png is not used: masks of normal"),
        (
            ["ground_truth/dent/000.png", "ground_truth/dent/000_mask.tif", "ground_truth/dent/001/a.png"],
            "warning 3 files are not used: another mask of the same image is used, such as {}/ground_truth/dent/000.png"
            ". Remove one of them.",
        ),
    ],
)
def test_each_unused_file_is_listed_with_its_reason(mvtec: Path, files: list[str], expected: str) -> None:
    before = read_samples(mvtec, ["bottle"])
    copy(mvtec, IMAGE, *(f"bottle/{file}" for file in files))
    (line,) = unused(mvtec)
    assert line.startswith(expected.replace("{}", str(mvtec / "bottle"))), line
    scan = layout_of(mvtec).scan("bottle")
    assert {str(file.path.relative_to(mvtec / "bottle")) for file in scan.unused} == set(files)
    assert list(scan.samples) == before


def test_hidden_files_are_left_out(mvtec: Path) -> None:
    copy(mvtec, IMAGE, "bottle/train/good/.a.png", "bottle/.cache/b.png", "bottle/train/good/.cam/c.png")
    assert unused(mvtec) == []


@pytest.mark.parametrize("name", ["normal", "ok", "Good", "pass", "Normal", "OK", "defect_free", "Non-Defective"])
@pytest.mark.parametrize("beside", [True, False])
def test_folder_like_the_normal_images_is_an_error(mvtec: Path, name: str, beside: bool) -> None:
    for split in ("train", "test"):
        copy(mvtec, "screw/train/good/000.png", f"bottle/{split}/{name}/000.png")
        if not beside:
            shutil.rmtree(mvtec / "bottle" / split / "good")
    for split in ("test", "train"):
        with pytest.raises(
            UserError,
            match=f"bottle/{split}/{name}/000.png is not used: the folder {split}/{name} looks like that of normal "
            f"images, {split}/good. Rename it to good, or set dataset.normal_dir={name}",
        ):
            read_samples(mvtec, ["bottle"])
        shutil.rmtree(mvtec / "bottle" / split / name)


@pytest.mark.parametrize("name", ["groundtruth", "Ground_Truth", "masks", "mask", "GT"])
def test_folder_like_the_masks_is_a_warning(mvtec: Path, name: str) -> None:
    (mvtec / "bottle/ground_truth").rename(mvtec / "bottle" / name)
    assert not any(sample.mask for sample in read_samples(mvtec, ["bottle"]))
    (line,) = unused(mvtec)
    assert line.startswith(f"warning 3 files are not used: the folder {name} looks like that of the masks, ground_trut")
    assert line.endswith(f"Rename it to ground_truth, or set dataset.mask_dir={name}.")
    named = LayoutNames(mask_dir=name)
    assert sum(sample.mask is not None for sample in read_samples(mvtec, ["bottle"], named)) == 3
    assert unused(mvtec, names=named) == []


def test_names_of_folders_and_masks_can_be_chosen(mvtec: Path) -> None:
    before = read_samples(mvtec, ["bottle"])
    for split in ("train", "test"):
        (mvtec / "bottle" / split / "good").rename(mvtec / "bottle" / split / "ok")
    (mvtec / "bottle/ground_truth").rename(mvtec / "bottle/labels")
    rename(mvtec / "bottle/labels", "*_mask.png", "{image_stem}.roi.png")
    names = LayoutNames("ok", "labels", ".roi")
    samples = read_samples(mvtec, ["bottle"], names)
    assert counts(samples) == counts(before)
    assert {s.defect for s in samples} == {"good", "dent", "spot"}
    assert all((s.mask is not None) == bool(s.label) for s in samples)
    assert unused(mvtec, names=names) == []
    copy(mvtec, "bottle/train/ok/000.png", "bottle/test/good/000.png")
    copy(mvtec, "bottle/train/ok/000.png", "bottle/train/good/000.png")
    with pytest.raises(
        UserError, match=r"test/good looks like that of normal images, test/ok\. Rename it to ok"
    ) as raised:
        read_samples(mvtec, ["bottle"], names)
    assert str(raised.value).endswith(
        f"check-data {mvtec} --normal-dir=ok --mask-dir=labels --mask-suffix=.roi` lists all."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a/b",), r"dataset\.normal_dir=a/b must be the name of one folder, such as good"),
        (("good", ""), r"dataset\.mask_dir= must be the name of one folder, such as ground_truth"),
        (("good", ".hidden"), r"dataset\.mask_dir=\.hidden must be the name of one folder"),
        (("good", "test"), r"dataset\.mask_dir=test must not be a folder of images"),
        (("good", "masks", "/x"), r"dataset\.mask_suffix=/x must be a part of a file name"),
    ],
)
def test_invalid_name_raises(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LayoutNames(*arguments)


@pytest.mark.parametrize(
    "name", ["000.bmp", "000_mask.bmp", "000_GT_label.png", "000_Mask.tiff", "000_gt.webp", "000_label.PNG"]
)
def test_usual_names_of_masks_are_read(mvtec: Path, name: str) -> None:
    path = mvtec / "bottle/ground_truth/dent/000_mask.png"
    with Image.open(path) as mask:
        mask.save(path.with_name(name), lossless=True)  # an option of WebP
    expected = np.asarray(read_mask(path))
    path.unlink()
    masks = [s.mask for s in read_samples(mvtec, ["bottle"]) if s.mask]
    assert masks[0].name == name
    np.testing.assert_array_equal(np.asarray(read_mask(masks[0])), expected)


def test_the_mask_suffix_precedes_other_names(mvtec: Path) -> None:
    copy(mvtec, "bottle/ground_truth/dent/000_mask.png", "bottle/ground_truth/dent/000_roi.png")
    assert read_samples(mvtec, ["bottle"], LayoutNames(mask_suffix="_roi"))[9].mask == (
        mvtec / "bottle/ground_truth/dent/000_roi.png"
    )


def test_masks_of_mvtec_loco_are_joined(mvtec: Path) -> None:
    folder = mvtec / "bottle/ground_truth/dent"
    for stem in ("000", "001"):
        (folder / f"{stem}_mask.png").unlink()
        (folder / stem).mkdir()
        for number in range(2):
            part = Image.new("L", (40, 32))
            part.putpixel((number, 5), 100 + number)
            part.save(folder / stem / f"{number:03d}.png")
    samples = read_samples(mvtec, ["bottle"])
    assert [s.mask for s in samples if s.defect == "dent"] == [folder / "000", folder / "001"]
    assert unused(mvtec) == []
    mask = np.asarray(read_mask(folder / "000"))
    assert mask.shape == (32, 40)
    assert np.argwhere(mask).tolist() == [[5, 0], [5, 1]]
    Image.new("L", (3, 3)).save(folder / "000" / "002.png")
    with pytest.raises(UserError, match=r"dent/000 has masks of different sizes"):
        read_samples(mvtec, ["bottle"])


def test_broken_link_is_an_error(mvtec: Path) -> None:
    for name in ("007.png", "008.png"):
        (mvtec / "bottle/train/good" / name).symlink_to(mvtec / "annex" / name)
    with pytest.raises(
        UserError, match=r"2 files are not used: the target of the link does not exist, .*dvc pull`, `git annex get"
    ):
        read_samples(mvtec, ["bottle"])
    (mvtec / "annex").mkdir()
    for name in ("007.png", "008.png"):
        copy(mvtec, IMAGE, f"annex/{name}")
    assert counts(read_samples(mvtec, ["bottle"])) == [8, 0, 3, 3]


def test_linked_folders_are_read_and_a_cycle_ends(mvtec: Path) -> None:
    (mvtec / "bottle/train/good").rename(mvtec / "elsewhere")
    (mvtec / "bottle/train/good").symlink_to(mvtec / "elsewhere")
    (mvtec / "bottle/test/good/cycle").symlink_to(mvtec / "bottle")
    assert counts(read_samples(mvtec, ["bottle"])) == [6, 0, 3, 3]
    assert unused(mvtec) == []


def test_category_with_unreadable_files_only_lists_them(mvtec: Path) -> None:
    for path in (mvtec / "bottle/train/good").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(
        UserError,
        match=r"bottle has no train images\. .* 6 files in bottle/train/good are not used: \.heic \(6\)\.",
    ):
        read_samples(mvtec, ["bottle"])


@pytest.mark.parametrize("suffix", [".webp", ".jp2", ".ppm", ".jfif", ".JPE"])
def test_other_formats_are_read(mvtec: Path, suffix: str) -> None:
    for path in (mvtec / "bottle/train/good").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(suffix))
        path.unlink()
    samples = read_samples(mvtec, ["bottle"])
    assert counts(samples) == [6, 0, 3, 3]
    assert read_image(samples[0].path).size == (40, 32)


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Prüfling") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("folder", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("request_form", [COMPOSED, DECOMPOSED])
def test_unicode_forms_of_a_name_are_the_same(mvtec: Path, folder: str, request_form: str) -> None:
    (mvtec / "bottle").rename(mvtec / folder)
    (mvtec / folder / "test/dent").rename(mvtec / folder / "test" / COMPOSED)
    (mvtec / folder / "ground_truth/dent").rename(mvtec / folder / "ground_truth" / DECOMPOSED)
    samples = read_samples(mvtec, [request_form])
    assert counts(samples) == [6, 0, 3, 3]
    assert all((s.mask is not None) == bool(s.label) for s in samples)
    assert {s.category for s in samples} == {COMPOSED}
    assert layout_of(mvtec).categories() == (COMPOSED, "screw")
    assert unused(mvtec, COMPOSED) == []
    shutil.copytree(mvtec / folder, mvtec / (COMPOSED if folder == DECOMPOSED else DECOMPOSED))
    with pytest.raises(UserError, match=r"has two folders .*composed and decomposed form\. Rename one"):
        layout_of(mvtec).categories()


def test_folder_without_train_is_named(mvtec: Path) -> None:
    (mvtec / "bottle/train").rename(mvtec / "bottle/Train")
    copy(mvtec, "screw/train/good/000.png", "stray.png", "other/x/a.png")
    causes = {file.cause.reason: file.path for file in layout_of(mvtec).files_outside(["screw"])}
    assert set(causes) == {
        "bottle is no category: Train looks like the folder train",
        "other is no category, because it has no folder train",
        "outside all categories",
    }
    (mvtec / "screw/train").rename(mvtec / "screw/TRAIN")
    with pytest.raises(UserError, match=r"bottle/Train looks like the folder train\. Rename it to train"):
        read_samples(mvtec, ["bottle"])


@pytest.mark.skipif(not REAL.is_dir(), reason="requires ../shared/data/realad_mini")
def test_real_images() -> None:
    assert layout_of(REAL).categories() == ("alien", "cookie", "leather", "screw", "solar_mono")
    expected = {
        "cookie": ([31, 0, 14, 16], 16),
        "leather": ([40, 0, 16, 15], 15),
        "screw": ([40, 0, 15, 20], 20),
        "alien": ([30, 0, 14, 16], 0),
        "solar_mono": ([40, 0, 15, 16], 0),
    }
    for category, (expected_counts, masks) in expected.items():
        samples = read_samples(REAL, [category])
        assert (counts(samples), sum(s.mask is not None for s in samples)) == (expected_counts, masks), category
