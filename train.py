"""Train on categories one after another, as ``moleflow train`` does. ``python train.py --help`` lists the options.

* ``python train.py +experiment=quickstart``
* ``python train.py dataset=mvtec dataset.root=/data/MVTecAD``
* ``python train.py -m +experiment=quickstart seed=0,1,2``
"""

import sys

from moleflow.cli.command import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
