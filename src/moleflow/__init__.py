"""Continual industrial anomaly detection with a normalizing flow and one expert per product category.

The functions have the results of the commands of the same names. ``moleflow.load(FOLDER)`` returns the detector of any
run folder, model folder or ensemble.

Examples:
    With an experiment in ``conf/experiment/parts.yaml`` of the working folder:

    >>> import moleflow
    >>> run = moleflow.train(["+experiment=parts"])
    >>> run
    RunResult('runs/parts/default/seed0', 2 categories, image_auroc=1.0000, pixel_ap=..., routing_accuracy=1.0000)
    >>> normal, dent = run.model.predict(["data/screw/test/good/000.png", "data/screw/test/dent/000.png"])
    >>> normal.expert, dent.expert, normal.score < dent.score
    ('screw', 'screw', True)
    >>> moleflow.report(["runs"])
    PosixPath('report/index.html')
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow.api import RunResult, load, report, train
    from moleflow.detector.base import Detector
    from moleflow.detector.detector import MoLEFlow
    from moleflow.detector.predictor import Prediction
    from moleflow.detector.types import ScoredImage
    from moleflow.utils.errors import UserError

__version__ = "0.2.0"
__all__ = [
    "Detector",
    "MoLEFlow",
    "Prediction",
    "RunResult",
    "ScoredImage",
    "UserError",
    "__version__",
    "load",
    "report",
    "train",
]

_MODULES = {
    "Detector": "moleflow.detector.base",
    "MoLEFlow": "moleflow.detector.detector",
    "Prediction": "moleflow.detector.predictor",
    "ScoredImage": "moleflow.detector.types",
    "RunResult": "moleflow.api",
    "UserError": "moleflow.utils.errors",
    "load": "moleflow.api",
    "report": "moleflow.api",
    "train": "moleflow.api",
}
"""Module of each public name, imported on first access, so that commands without torch start fast."""


def __getattr__(name: str) -> Any:
    """Return a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
