"""The command ``moleflow wandb-sweep``."""

import argparse
from pathlib import Path

from moleflow.utils.errors import UserError, check_choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", metavar="NAME", help="sweep of conf/sweep, such as tail_weight")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="overrides of all runs, such as dataset.root=/data/MVTecAD"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write (default: wandb-sweep-NAME.yaml)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the sweep file and print the commands that start it.

    Raises:
        UserError: If there is no such sweep, or an override is wrong.
    """
    import yaml
    from hydra.errors import HydraException

    from moleflow.experiment.conf import conf_folders, group_options
    from moleflow.experiment.wandb_sweep import wandb_sweep
    from moleflow.utils.io import write_text

    check_choice("NAME", args.name, group_options(conf_folders())["sweep"])
    try:
        content = wandb_sweep(args.name, args.overrides)
    except HydraException as error:
        raise UserError(str(error)) from error
    path = args.output or Path(f"wandb-sweep-{args.name}.yaml")
    write_text(path, yaml.safe_dump(content, sort_keys=False, width=1000))
    print(f"{path}: {content['method']} over {', '.join(content['parameters'])}.")
    print(f"Create the sweep:  wandb sweep {path}\nThen, per machine:  wandb agent SWEEP_ID")
    return 0
