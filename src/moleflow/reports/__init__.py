"""Report on run folders: one HTML page, Markdown and CSV tables. Does not import torch."""
