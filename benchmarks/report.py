"""Time to write and to open the report of many runs, and the size of its page.

    python benchmarks/report.py --out report.json

The runs are files with random metrics; nothing is trained. They differ in four keys and the seed. The page is opened in
headless Chromium, if it and its driver are installed (selenium): until the event ``load``, and until the script of the
page is done and the first screen is drawn.
"""

import itertools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from side_by_side import Row, benchmark_parser, parse_args, print_table, seconds, write_result

from moleflow.reports.document import ReportOptions
from moleflow.reports.page import build, write
from moleflow.runs.content import METRICS
from moleflow.runs.reader import read_runs

_GRID = {
    "loss.tail_weight": [0.0, 0.3, 0.5, 0.7, 1.0],
    "model.dia_blocks": [0, 2, 4, 6],
    "optimizer.lr": [1e-4, 3e-4],
    "epochs": [40, 60, 80, 100, 120],
}
_SEEDS = 2


def write_runs(root: Path, count: int, categories: int, epochs: int) -> None:
    """Write finished runs with random metrics.

    Args:
        root: Folder of the runs.
        count: Number of runs, at most 400.
        categories: Categories per run, one per task.
        epochs: Recorded epochs per task.
    """
    names = [f"category{i:02d}" for i in range(categories)]
    for i, (values, seed) in enumerate(
        itertools.islice(itertools.product(itertools.product(*_GRID.values()), range(_SEEDS)), count)
    ):
        rng = np.random.default_rng(i)
        folder = root / f"main/{i // _SEEDS}/seed{seed}"
        folder.mkdir(parents=True)
        settings = dict(zip(_GRID, values, strict=True))
        config: dict[str, Any] = {
            "dataset": {"_target_": "benchmark.BenchmarkDataModule"},
            "name": "main",
            "seed": seed,
        }
        config |= {f"group{j}": {f"key{k}": k for k in range(12)} for j in range(10)}  # as many keys as of a real run
        for key, value in settings.items():
            group, _, name = key.rpartition(".")
            target = config.setdefault(group, {}) if group else config
            target[name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "status.json").write_text(json.dumps({"status": "finished"}))
        overrides = [f"{key}={value}" for key, value in settings.items()]
        (folder / "metrics.json").write_text(json.dumps(_metrics(rng, names, epochs) | {"overrides": overrides}))
        rows = [f"{name}/{j}.png,{name},bad,{j % 2},{rng.normal() + j % 2},{name}" for name in names for j in range(60)]
        text = "\n".join(["path,category,defect,label,image_score,routed_to", *rows])
        (folder / "scores.csv").write_text(text + "\n")


def _metrics(rng: np.random.Generator, names: Sequence[str], epochs: int) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    per_category = {name: dict(zip(METRICS, rng.random(len(METRICS)).tolist(), strict=True)) for name in names}
    means = {metric: float(np.mean([values[metric] for values in per_category.values()])) for metric in METRICS}
    for values in per_category.values():
        values["oracle"] = {metric: values[metric] for metric in METRICS}
    matrix = [rng.random(i + 1).tolist() for i in range(len(names))]
    history = [{"loss": value, "nll_mean": value, "lr": 1e-4} for value in rng.random(epochs).tolist()]
    return {
        **means,
        "per_category": per_category,
        "oracle": means,
        "forgetting": {"pixel_ap": 0.1},
        "task_matrix": {"tasks": [[name] for name in names], "pixel_ap": matrix, "routing_accuracy": matrix},
        "routing": {"experts": list(names), "counts": {name: dict.fromkeys(names, 4) for name in names}},
        "training": {"steps": 10, "skipped_steps": [0] * len(names), "epochs": [history] * len(names)},
        "seconds": {"features": 1.0, "training": 2.0, "evaluation": 3.0},
    }


def page_seconds(page: Path) -> dict[str, float]:
    """Return the seconds until the event ``load`` and until the first paint, and the CPU seconds of the page's process.

    Args:
        page: The HTML file.

    Returns:
        The seconds by name; empty without browser.
    """
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.support.wait import WebDriverWait
    except ImportError:
        return {}
    if chromium is None or driver_path is None:
        return {}
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(flag)
    options.binary_location = chromium
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        driver.get("about:blank")
        driver.execute_cdp_cmd("Performance.enable", {})
        before = _process_seconds(driver)
        driver.get(page.resolve().as_uri())
        load = driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        paint = "return (performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime"
        first = WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(paint))
        cpu = _process_seconds(driver) - before
        return {"load_seconds": load / 1000, "paint_seconds": first / 1000, "page_cpu_seconds": cpu}
    finally:
        driver.quit()


def _process_seconds(driver: Any) -> float:
    """Return the CPU seconds of the process that draws the page."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "ProcessTime"))


def measure(runs: int, categories: int, epochs: int) -> Row:
    """Return times and size of a report."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "runs", Path(folder) / "report"
        write_runs(root, runs, categories, epochs)

        def report() -> None:
            sections = build(*read_runs([root]), ReportOptions(target=0.9), out)
            write(sections, out, "Benchmark", "")

        spent = seconds(report)
        page = page_seconds(out / "index.html")
        size = (out / "index.html").stat().st_size / 1e6
    return {"runs": runs, "categories": categories, "seconds": spent, "page_mb": size, **page}


def main(args: Sequence[str] | None = None) -> None:
    """Measure reports of several sizes."""
    options = parse_args(benchmark_parser(__doc__), args)
    sizes = [(4, 2, 2)] if options.smoke else [(24, 15, 60), (150, 15, 60), (200, 15, 60), (150, 60, 60)]
    rows = [measure(*size) for size in sizes]
    formats = {"runs": "", "categories": "", "seconds": ".1f", "page_mb": ".2f"}
    print_table(rows, formats | {name: ".2f" for name in rows[0] if name.endswith("_seconds")})
    write_result(options.out, {"rows": rows}, options.device)


if __name__ == "__main__":
    main()
