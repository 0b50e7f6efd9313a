"""Train on categories one after another, as ``moleflow train`` does. ``python train.py --help`` lists the options.

* ``python train.py +experiment=quickstart``
* ``python train.py dataset=mvtec dataset.root=/data/MVTecAD``
* ``python train.py -m +experiment=quickstart seed=0,1,2``
"""

from pathlib import Path

from moleflow.cli.train import main

if __name__ == "__main__":
    main(Path(__file__).parent / "conf")
