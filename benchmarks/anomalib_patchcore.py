"""Scores and maps of anomalib's own PatchCore, for benchmarks/quality.py; runs in an environment with anomalib.

    python anomalib_patchcore.py DATA OUT --backbone NAME --layers LAYER LAYER --size 224 --weights FILE

Whole images are resized to a square, as anomalib does. Per category ``OUT/CATEGORY.npz`` holds the paths of the test
images relative to DATA, their scores and their maps.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from PIL import Image
from safetensors.torch import load_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MEAN_STD = {"tf_efficientnet_lite0": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def main() -> None:
    """Train and score all categories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--layers", nargs="+", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--memory", type=int, default=3000, help="patches of the memory bank")
    parser.add_argument("--shots", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    training, evaluation, images = 0.0, 0.0, 0
    for folder in sorted(path for path in options.data.iterdir() if (path / "train" / "good").is_dir()):
        train_paths = _files(folder / "train" / "good")
        if options.shots:
            order = np.random.default_rng(options.seed).permutation(len(train_paths))[: options.shots]
            train_paths = [train_paths[i] for i in sorted(order)]
        test_paths = [path for kind in sorted((folder / "test").iterdir()) for path in _files(kind)]
        started = time.perf_counter()
        model = _fit(options, train_paths)
        training += time.perf_counter() - started
        started = time.perf_counter()
        scores, maps = _score(options, model, test_paths)
        evaluation += time.perf_counter() - started
        images += len(test_paths)
        paths = [path.relative_to(options.data).as_posix() for path in test_paths]
        np.savez(options.out / f"{folder.name}.npz", paths=np.array(paths), scores=scores, maps=maps)
        print(folder.name, f"{training:.0f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    costs = {"training_s": training, "s_per_image": evaluation / images, "memory_gb": peak}
    (options.out / "costs.json").write_text(json.dumps(costs))


def _fit(options: argparse.Namespace, paths: list[Path]) -> PatchcoreModel:
    torch.manual_seed(options.seed)
    model = PatchcoreModel(options.layers, options.backbone, pre_trained=False)
    network = model.feature_extractor.feature_extractor
    names = set(network.state_dict())
    state = {name: tensor for name, tensor in load_file(options.weights).items() if name in names}
    if missing := names - set(state):
        raise SystemExit(f"--weights {options.weights} has no {min(missing)}.")
    network.load_state_dict(state)
    model.train()
    model.feature_extractor.eval()  # batch normalization by the statistics of the weights
    with torch.no_grad():
        for path in paths:
            model(_read(path, options))
        patches = sum(len(store) for store in model.embedding_store)
        model.subsample_embedding(min(1.0, options.memory / patches))
    return model.eval()


def _score(options: argparse.Namespace, model: PatchcoreModel, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    scores, maps = [], []
    with torch.no_grad():
        for path in paths:
            prediction = model(_read(path, options))
            scores.append(float(prediction.pred_score))
            maps.append(prediction.anomaly_map.reshape(options.size, options.size).numpy())
    return np.array(scores, np.float32), np.stack(maps).astype(np.float32)


def _read(path: Path, options: argparse.Namespace) -> torch.Tensor:
    image = Image.open(path).convert("RGB").resize((options.size, options.size), Image.Resampling.BILINEAR)
    mean, std = MEAN_STD.get(options.backbone, IMAGENET)
    pixels = (np.asarray(image, np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


if __name__ == "__main__":
    main()
