"""Detection of the layouts of the public data sets, and their samples."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from helpers.dataset_trees import TREES
from helpers.layouts import counts, read_samples
from helpers.trees import write_mvtec_tree
from moleflow.data.findings import summarize
from moleflow.data.layouts.btad import BTADLayout
from moleflow.data.layouts.checks import layout_findings
from moleflow.data.layouts.detection import layout_of
from moleflow.data.layouts.kolektor_sdd2 import KolektorSDD2Layout
from moleflow.data.layouts.mvtec import MVTecLayout
from moleflow.data.layouts.mvtec_ad2 import MVTecAD2Layout
from moleflow.data.layouts.mvtec_loco import MVTecLOCOLayout
from moleflow.data.layouts.names import LayoutNames
from moleflow.data.layouts.real_iad import RealIADLayout
from moleflow.data.layouts.visa import VisALayout
from moleflow.data.saturation import SaturationThreshold, read_regions
from moleflow.utils.errors import UserError

LAYOUTS = {
    "mvtec": (MVTecLayout, [6, 0, 3, 3]),
    "visa": (VisALayout, [6, 0, 3, 3]),
    "mpdd": (MVTecLayout, [6, 0, 3, 3]),
    "mvtec_loco": (MVTecLOCOLayout, [5, 0, 2, 4]),
    "mvtec_ad2": (MVTecAD2Layout, [5, 0, 4, 4]),
    "btad": (BTADLayout, [5, 0, 3, 3]),
    "real_iad": (RealIADLayout, [15, 0, 10, 10]),
    "kolektor_sdd2": (KolektorSDD2Layout, [6, 0, 3, 3]),
}
"""Class of the layout, and numbers of normal and defective training and test images per category."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trees")
    return {name: tree.write(folder / name, tree.categories[:1]) for name, tree in TREES.items()}


def notes(root: Path) -> list[str]:
    """Return the messages about a data set's layout, without its root."""
    layout = layout_of(root)
    categories = layout.categories()
    findings = summarize(layout_findings(layout.scans(categories), layout, categories))
    return [f"{finding.severity} {finding.message}".replace(f"{root}/", "") for finding in findings]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_detected_and_all_images_are_read(roots: dict[str, Path], name: str) -> None:
    layout, numbers = LAYOUTS[name]
    assert type(layout_of(roots[name])) is layout
    (category,) = TREES[name].categories[:1]
    assert layout_of(roots[name]).categories() == (category,)
    samples = read_samples(roots[name], [category])
    assert counts(samples) == numbers
    assert {s.category for s in samples} == {category}
    assert all(s.mask is None for s in samples if not s.label)
    assert all(line.startswith("note") for line in notes(roots[name]))


def test_masks_of_each_layout(roots: dict[str, Path]) -> None:
    masks = {
        name: [
            str(s.mask.relative_to(roots[name]))
            for s in read_samples(roots[name], TREES[name].categories[:1])
            if s.mask
        ]
        for name in ("mvtec_loco", "mvtec_ad2", "btad", "real_iad", "kolektor_sdd2")
    }
    assert masks["mvtec_loco"][0] == "pushpins/ground_truth/logical_anomalies/000"
    assert masks["mvtec_ad2"][0] == "can/test_public/ground_truth/bad/000_overexposed_mask.png"
    assert masks["btad"][0] == "01/ground_truth/ko/0000.png"
    assert masks["kolektor_sdd2"] == [f"test/{number}_GT.png" for number in (20001, 20003, 20005)]
    assert Counter(Path(mask).parts[3] for mask in masks["real_iad"]) == {"HS": 4, "QS": 4}  # view 5 has no mask


def test_unused_images_of_a_release_are_notes(roots: dict[str, Path]) -> None:
    lines = {name: " ".join(notes(roots[name])) for name in roots}
    assert "4 files are not used: images without public labels" in lines["mvtec_ad2"]
    assert "2 files are not used: the validation images of the data set" in lines["mvtec_loco"]
    assert "2 files are not used: training images with a defect" in lines["kolektor_sdd2"]
    assert lines["btad"] == lines["mvtec"] == ""


def test_names_can_be_chosen_for_a_test_folder(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ["nut"])
    (root / "nut/test").rename(root / "nut/evaluation")
    (root / "nut/ground_truth").rename(root / "nut/evaluation/masks")
    names = LayoutNames(test_dir="evaluation", mask_dir="evaluation/masks")
    samples = read_samples(root, ["nut"], names)
    assert counts(samples) == [6, 0, 3, 3]
    assert all((s.mask is not None) == bool(s.label) for s in samples)
    with pytest.raises(UserError, match=r"dataset\.test_dir=train must not be the folder of the training images"):
        LayoutNames(test_dir="train")


def test_saturation_thresholds_of_loco(roots: dict[str, Path]) -> None:
    (scan,) = layout_of(roots["mvtec_loco"]).scans(["pushpins"])
    assert scan.groups == {"logical_anomalies": "logical", "structural_anomalies": "structural"}
    assert scan.saturation[255] == SaturationThreshold(20, False)
    assert [scan.saturation[255].area(pixels) for pixels in (5, 50)] == [5, 20]
    assert [scan.saturation[254].area(pixels) for pixels in (1, 51)] == [1, 25]
    (mask,) = [s.mask for s in scan.samples if s.defect == "logical_anomalies" and s.path.stem == "001"]
    assert mask is not None
    regions = read_regions(mask, scan.saturation)
    pixels = [sum(region.mask.histogram()[255:]) for region in regions]
    assert [region.share * count for region, count in zip(regions, pixels, strict=True)] == pytest.approx(
        [min(20, pixels[0]), pixels[1] // 2]
    )


def test_faults_of_defects_config(tmp_path: Path) -> None:
    root = TREES["mvtec_loco"].write(tmp_path, ["pushpins"])
    config = root / "pushpins/defects_config.json"
    entries = json.loads(config.read_text())
    mask = root / "pushpins/ground_truth/structural_anomalies/000/000.png"
    (scan,) = layout_of(root).scans(["pushpins"])
    Image.new("L", (48, 40), 7).save(mask)
    with pytest.raises(UserError, match=r"000\.png has the pixel values 7; .*defects_config\.json \(253, 254, 255\)"):
        read_regions(mask, scan.saturation)
    config.write_text(json.dumps([{"pixel_value": 255}]))
    with pytest.raises(UserError, match=r"defects_config\.json cannot be read \(KeyError: 'saturation_threshold'\)"):
        layout_of(root).scan("pushpins")
    config.write_text(json.dumps([entries[0] | {"saturation_threshold": 0}]))
    with pytest.raises(UserError, match=r"pixel_value=255 and its saturation_threshold must be positive"):
        layout_of(root).scan("pushpins")
    config.unlink()
    assert layout_of(root).scan("pushpins").saturation == {}
    assert any("warning" in line and "has no sPRO" in line for line in notes(root))


def test_faults_of_kolektor(tmp_path: Path) -> None:
    root = TREES["kolektor_sdd2"].write(tmp_path, [])
    (root / "train/10000_GT.png").unlink()
    with pytest.raises(UserError, match=r"10000\.png has no mask 10000_GT\.png, which has its label\. Add it"):
        read_samples(root, ["kolektor_sdd2"])
    (root / "train/10000.png").unlink()
    (root / "test/20001.png").unlink()
    with pytest.raises(UserError, match=r"20001_GT\.png is not used: no image has this mask"):
        read_samples(root, ["kolektor_sdd2"])


def test_options_and_variants_of_real_iad(tmp_path: Path) -> None:
    root = TREES["real_iad"].write(tmp_path, ["usb"])
    expected = read_samples(root, ["usb"])
    path = root / "realiad_jsons/usb.json"
    content = json.loads(path.read_text())
    for entry in (*content["train"], *content["test"]):  # a prefix in each path
        for key in ("image_path", "mask_path"):
            entry[key] = entry[key] and f"usb/{entry[key]}"
    path.unlink()
    nested = root / "realiad_jsons/realiad_jsons/usb.json"  # as the archive of the splits is unpacked by some
    nested.parent.mkdir()
    nested.write_text(json.dumps(content))
    assert read_samples(root, ["usb"]) == expected
    assert counts(RealIADLayout(root, views=[1, 5]).scan("usb").samples) == [6, 0, 4, 4]
    single = RealIADLayout(root, split_dir="realiad_jsons_sv").scan("usb")
    assert counts(single.samples) == [3, 0, 2, 2]
    assert single.objects == {}
    (root / "realiad_256").mkdir()
    assert RealIADLayout(root).image_dir == "realiad_1024"
    for arguments, message in (
        ({"views": [6]}, r"dataset\.views=\[6\] must be a list of views from 1 to 5"),
        ({"split_dir": "none"}, r"dataset\.split_dir=none must be a folder with JSON files"),
        ({"image_dir": "none"}, r"dataset\.image_dir=none must be a folder of images"),
    ):
        with pytest.raises(UserError, match=message):
            RealIADLayout(root, **arguments)  # type: ignore[arg-type]


def test_faults_of_real_iad(tmp_path: Path) -> None:
    root = TREES["real_iad"].write(tmp_path, ["usb"])
    next(root.rglob("*_C2_*.jpg")).unlink()
    with pytest.raises(UserError, match=r"usb\.json names .*_C2_.*, which does not exist"):
        read_samples(root, ["usb"])
    (root / "realiad_jsons/usb.json").write_text('{"meta": {}}')
    with pytest.raises(UserError, match=r"usb\.json cannot be read \(KeyError: 'normal_class'\)"):
        read_samples(root, ["usb"])
