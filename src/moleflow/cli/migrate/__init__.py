"""Translation of the command lines of the first implementation, ``run_moleflow.py``."""
