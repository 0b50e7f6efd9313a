"""The command ``moleflow ensemble``."""

import argparse
from pathlib import Path

from moleflow.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Average image scores and anomaly maps of finished runs, each standardized by its own training scores, and "
        "evaluate the result like a run."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; the first one routes")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the new run folder")
    parser.add_argument("--device", default="cpu", help="device to compute on, such as cuda (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Evaluate the ensemble, write its run folder and print its metrics.

    Raises:
        UserError: If a run is not finished or does not match the first one, or the new folder holds another run.
    """
    import logging

    from moleflow.evaluation.results import format_metrics
    from moleflow.experiment.ensemble import evaluate_ensemble

    logging.basicConfig(level=logging.WARNING)
    metrics = evaluate_ensemble(args.runs, args.out, args.device)
    print(printable("\n".join((f"Results are in {args.out}.", *format_metrics(metrics)))))
    return 0
