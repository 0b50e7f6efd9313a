"""Learn categories one after another. ``python train.py --help`` lists the config groups.

* ``python train.py +experiment=quickstart``
* ``python train.py dataset=mvtec dataset.root=/data/MVTecAD``
* ``python train.py -m +experiment=quickstart seed=0,1,2``
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from moleflow.cli import JobError, command, register_resolvers
from moleflow.errors import UserError

register_resolvers()
CONF = Path(__file__).parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train(config: DictConfig) -> float | None:
    """Run one job and return the value that a search maximises."""
    from moleflow.training.objective import check_objective, objective
    from moleflow.training.run import run

    try:
        check_objective(config.objective)
        return objective(run(config), config.objective)
    except UserError as error:
        raise JobError(str(error)) from None


if __name__ == "__main__":
    command(train, CONF)
