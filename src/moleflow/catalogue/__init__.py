"""Catalogue of recorded and proposed experiments, and their comparison with runs.

A recorded experiment is a run of the first implementation with known metrics; a proposed one is suggested in the first
implementation's report and was not run there. Both are rows of a table and files in ``conf/experiment``.
"""
