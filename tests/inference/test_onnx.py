"""Tests of exported graphs against the scores of PyTorch."""

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from helpers.detectors import SmallRun, fit_detector, fit_expert, normal_images, training_images
from helpers.program import LARGE_SET, TINY, run_program
from moleflow.cli.command import main
from moleflow.data.image_io import read_image
from moleflow.data.transforms import ImageTransform
from moleflow.detector.detector import MoLEFlow
from moleflow.inference.onnx import DeployedDetector, DeployedExpert, _metadata, export_onnx
from moleflow.utils.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

exporter_warnings = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def export(run: Path, file: Path) -> Path:
    """Export the expert of screw and return the file."""
    assert main(["export", str(run), "--category", "screw", "-o", str(file)]) == 0
    return file


def open_session(file: Path) -> Any:
    """Return a session of the graph in a file."""
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def compare_with_pytorch(run: Path, tree: Path, file: Path) -> None:
    """Compare the exported expert of screw with PyTorch image by image."""
    model = MoLEFlow.load(run)
    session = open_session(file)
    paths = normal_images(tree, "screw")[:3]
    expected = model.score(paths, expert="screw")
    # The transform is not part of the graph, which normalizes RGB values in [0, 1] itself.
    transform = model.experts["screw"].transform
    mean, std = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (transform.mean, transform.std))
    images = np.stack([transform(read_image(path)).numpy() * std + mean for path in paths])
    for batch in (1, 3):
        scores, maps = session.run(None, {"images": images[:batch]})
        for i in range(batch):
            assert scores[i] == pytest.approx(expected[i].score, abs=1e-4, rel=1e-4)
            anomaly_map = expected[i].anomaly_map
            # The rounding error of large values remains where a map crosses zero.
            tolerance = max(1e-4, 2e-6 * float(anomaly_map.abs().max()))
            np.testing.assert_allclose(maps[i], anomaly_map.numpy(), atol=tolerance, rtol=1e-4)


@pytest.fixture(scope="module")
def graph(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the exported flow of screw; an export takes seconds."""
    return export(small_run.folder, tmp_path_factory.mktemp("graph") / "screw.onnx")


@exporter_warnings
def test_exported_flow_equals_pytorch(small_run: SmallRun, graph: Path) -> None:
    compare_with_pytorch(small_run.folder, small_run.tree, graph)


@exporter_warnings
def test_graph_has_its_metadata(small_run: SmallRun, graph: Path) -> None:
    metadata = open_session(graph).get_modelmeta().custom_metadata_map
    model = MoLEFlow.load(small_run.folder)
    assert metadata == _metadata(model, DeployedDetector(model, "screw"))
    assert metadata["expert"] == "screw"
    assert json.loads(metadata["categories"]) == ["screw"]
    assert json.loads(metadata["input_range"]) == "auto"
    thresholds = model.thresholds("screw")
    for key, threshold in (("threshold", thresholds.score), ("pixel_threshold", thresholds.pixel)):
        assert (float(metadata[key]), float(metadata[f"{key}_scale"])) == (threshold.value, threshold.scale)


@exporter_warnings
@pytest.mark.parametrize(
    ("model", "scoring"), [("mixture", "pooled"), ("whitened_memory", "subtract_median"), ("padim", "percentile")]
)
def test_exported_models_and_scorings_equal_pytorch(
    model: str, scoring: str, small_run: SmallRun, tmp_path: Path
) -> None:
    data = ["dataset=folder", f"dataset.root={small_run.tree}", "dataset.categories=[screw]"]
    tiny = [override for override in TINY if not override.startswith(("model.", "scoring."))]
    options = [f"model={model}", f"scoring={scoring}", "scoring.map_subtract_median=0.5", "epochs=1"]
    options += ["+per_category.screw.transform.size=[32,96]"] if model == "padim" else []
    run_program([*data, *tiny, *options], tmp_path / "run")
    compare_with_pytorch(tmp_path / "run", small_run.tree, export(tmp_path / "run", tmp_path / "screw.onnx"))


@exporter_warnings
def test_exported_feature_sets_equal_pytorch(small_run: SmallRun, tmp_path: Path) -> None:
    """Two sets of 64 pixels with different normalization share an input; the third has one of 96 pixels."""
    same = [override.replace("feature_sets.large", "feature_sets.same") for override in LARGE_SET]
    changes = ["feature_sets.large.transform.size=96", "feature_sets.same.backbone.mean=[0.5,0.5,0.5]"]
    model = fit_detector(small_run.tree, "scoring=pooled", *same, *LARGE_SET, *changes, categories=["screw"])
    deployed = export_onnx(model, "screw", tmp_path / "screw.onnx")
    session = onnxruntime.InferenceSession(str(deployed), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["images", "images_96x96"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["size"]) == [64, 64]
    large = json.loads(metadata["images_96x96"])
    assert large == {"size": [96, 96], "mode": "squash", "filter": "lanczos", "input_range": "auto"}
    paths = normal_images(small_run.tree, "screw")[:3]
    images = {
        name: np.concatenate(
            [transform_by_metadata(path, {"mode": "squash", "filter": "lanczos", "size": size}) for path in paths]
        )
        for name, size in (("images", "[64, 64]"), ("images_96x96", "[96, 96]"))
    }
    scores, maps = session.run(None, images)
    for i, expected in enumerate(model.score(paths, expert="screw")):
        assert scores[i] == pytest.approx(expected.score, abs=1e-4, rel=1e-4)
        np.testing.assert_allclose(maps[i], expected.anomaly_map.numpy(), atol=1e-3, rtol=1e-4)


@pytest.fixture(scope="module")
def all_experts(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[MoLEFlow, Path]:
    """Return a detector of two memory banks at different image sizes, and the graph of both with the router."""
    model = fit_detector(small_run.tree, "model=patchcore", "scoring=pooled", categories=["bottle"])
    fit_expert(model, "screw", training_images(small_run.tree, "screw"), {"transform": {"size": [32, 96]}})
    return model, export_onnx(model, None, tmp_path_factory.mktemp("graph") / "all.onnx")


def compare_all_experts(model: MoLEFlow, tree: Path, metadata: dict[str, str], run: Any) -> None:
    """Compare verdicts, scores and maps of a graph with the router, for a batch of both categories, with PyTorch.

    Args:
        model: The detector.
        tree: Root of the data set.
        metadata: Metadata of the graph.
        run: Function that returns the outputs of the graph by name for its inputs.
    """
    paths = [normal_images(tree, "screw")[0], *normal_images(tree, "bottle")[:2], normal_images(tree, "tile")[0]]
    further = {name: json.loads(text) for name, text in metadata.items() if name.startswith("images_")}
    geometries = {"images": metadata, **{n: {**g, "size": json.dumps(g["size"])} for n, g in further.items()}}
    outputs = run({n: np.concatenate([transform_by_metadata(p, g) for p in paths]) for n, g in geometries.items()})
    experts = json.loads(metadata["experts"])
    for i, expected in enumerate(model.predict(paths)):
        expert = experts[int(outputs["expert"][i])]
        assert expert["name"] == expected.expert
        score, distance = float(outputs["score"][i]), float(outputs["distance"][i])
        assert score == pytest.approx(expected.score, abs=2e-3, rel=2e-3)
        assert distance / expert["distance_threshold"] == pytest.approx(expected.distance, rel=1e-3)
        if distance > expert["distance_threshold"]:
            verdict = "unknown"
        else:
            verdict = "defect" if score > expert["threshold"] else "normal"
        assert verdict == expected.verdict
        assert expected.anomaly_map is not None
        np.testing.assert_allclose(outputs["map"][i], expected.anomaly_map.numpy(), atol=5e-3)
    assert outputs["expert"].tolist()[:3] == [1, 0, 0]


@exporter_warnings
def test_graph_of_all_experts_equals_pytorch(all_experts: tuple[MoLEFlow, Path], small_run: SmallRun) -> None:
    model, file = all_experts
    session = open_session(file)
    assert [each.name for each in session.get_inputs()] == ["images", "images_32x96"]
    names = [each.name for each in session.get_outputs()]
    assert names == ["score", "map", "expert", "distance"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == _metadata(model, DeployedDetector(model))
    compare_all_experts(
        model, small_run.tree, metadata, lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))
    )


@exporter_warnings
def test_graph_of_all_experts_in_openvino_equals_pytorch(
    all_experts: tuple[MoLEFlow, Path], small_run: SmallRun
) -> None:
    openvino = pytest.importorskip("openvino")
    model, file = all_experts
    compiled = openvino.compile_model(openvino.Core().read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {output.any_name: value for output, value in compiled(inputs).to_dict().items()}

    compare_all_experts(model, small_run.tree, _metadata(model, DeployedDetector(model)), run)


@exporter_warnings
@pytest.mark.parametrize("kind", ["exif", "16 bit", "gray", "palette"])
def test_snippet_of_the_documents_equals_prediction(
    kind: str, small_run: SmallRun, graph: Path, tmp_path: Path
) -> None:
    """The images have the orientation of EXIF, or more than 8 bits, which a plain conversion to RGB ignores."""
    with Image.open(normal_images(small_run.tree, "screw")[0]) as image:
        path = tmp_path / "image.png"
        if kind == "exif":
            exif = Image.Exif()
            exif[0x0112] = 6  # turned by 90 degrees
            image.resize((90, 64)).save(path, exif=exif)
        elif kind == "16 bit":
            values = np.asarray(image.convert("L"), np.uint16)
            Image.fromarray(values * 257 + np.arange(64, dtype=np.uint16)).save(path)
        else:
            image.convert("L" if kind == "gray" else "P").save(path)
    document = (Path(__file__).parents[2] / "docs/predicting.md").read_text()
    snippet = document[document.index("    metadata = session.get_modelmeta()") :].split("\n\n")[0]
    names = {"session": open_session(graph), "path": path, "np": np, "json": json, "Image": Image, "ImageOps": ImageOps}
    exec(textwrap.dedent(snippet), names)
    (score,), _ = names["session"].run(None, {"images": names["images"]})
    (expected,) = MoLEFlow.load(small_run.folder).score([path], expert="screw")
    assert score == pytest.approx(expected.score, abs=1e-4, rel=1e-4)


def transform_by_metadata(path: Path, metadata: dict[str, str]) -> NDArray[np.float32]:
    """Return an image as the graph's input (1, 3, H, W), by the metadata with Pillow and numpy alone."""
    height, width = json.loads(metadata["size"])
    image, mode = Image.open(path).convert("RGB"), metadata["mode"]
    scales = width / image.width, height / image.height
    horizontal, vertical = {"crop": (max(scales),) * 2, "pad": (min(scales),) * 2, "squash": scales}[mode]
    size = int(image.width * horizontal + 1e-6), int(image.height * vertical + 1e-6)
    resized = image.resize(size, Image.Resampling[metadata["filter"].upper()])
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    pixels = np.asarray(resized, np.float32) / 255
    if mode == "pad":
        canvas = np.full((height, width, 3), json.loads(metadata["fill"]), np.float32)
        canvas[-top : resized.height - top, -left : resized.width - left] = pixels
        pixels = canvas
    else:
        pixels = pixels[top : top + height, left : left + width]
    return pixels.transpose(2, 0, 1)[None]


@exporter_warnings
@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_metadata_describe_the_transform(mode: str, small_run: SmallRun, graph: Path, tmp_path: Path) -> None:
    with Image.open(normal_images(small_run.tree, "screw")[0]) as image:
        image.resize((151, 98)).save(tmp_path / "large.png")
    model = MoLEFlow.load(small_run.folder)
    model.extractor.transform = ImageTransform(64, mode, input_range=[0, 4095])
    metadata = _metadata(model, DeployedDetector(model, "screw"))
    assert json.loads(metadata["input_range"]) == [0, 4095]  # without effect on an image of 8 bits
    images = transform_by_metadata(tmp_path / "large.png", metadata)
    (score,), _ = open_session(graph).run(None, {"images": images})  # the graph does not contain the transform
    (expected,) = model.score([tmp_path / "large.png"], expert="screw")
    assert score == pytest.approx(expected.score, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("aggregation", ["max", "mean", "top_k", "top_k_percent", "percentile"])
@pytest.mark.parametrize(
    "options", [{}, {"pool": 3, "subtract_median": 0.5}], ids=["plain", "pooled, median subtracted"]
)
def test_aggregation_of_the_graph_equals_the_postprocessor(
    small_run: SmallRun, aggregation: str, options: dict[str, Any]
) -> None:
    model = MoLEFlow.load(small_run.folder)
    record = model.experts["screw"]
    postprocessor = replace(
        record.postprocessor, aggregation=aggregation, top_k_percent=0.1, percentile=0.93, **options
    )
    record.postprocessor = postprocessor
    patches = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = DeployedExpert(model, "screw")._aggregate(patches)
    torch.testing.assert_close(scores, postprocessor.image_scores(patches))


def test_unknown_category_is_an_error(small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="category='scrw'"):
        export_onnx(MoLEFlow.load(small_run.folder), "scrw", tmp_path / "screw.onnx")
    assert main(["export", str(small_run.folder), "--category", "scrw"]) == 1
    assert "category='scrw'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
