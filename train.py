"""Train on categories one after another, as ``moleflow train`` does. ``python train.py --help`` lists the options.

* ``python train.py +experiment=quickstart``
* ``python train.py dataset=mvtec dataset.root=/data/MVTecAD``
* ``python train.py -m +experiment=quickstart seed=0,1,2``
"""

import sys
from pathlib import Path

from moleflow.utils.errors import UserError
from moleflow.utils.platform import check_platform

if __name__ == "__main__":
    try:
        check_platform()
    except UserError as error:
        sys.exit(str(error))
    from moleflow.cli.train import main  # imports what Windows does not have

    main(Path(__file__).parent / "conf")
