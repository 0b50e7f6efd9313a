"""Folder layouts of the public data sets, one module per layout: from files to samples."""
