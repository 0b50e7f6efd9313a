"""One thread a test process: the suite runs in several processes, and threads beyond the cores slow all down."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; commands that tests start inherit it
