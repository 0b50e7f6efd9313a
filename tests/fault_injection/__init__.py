"""Fault injection: real processes that are killed, run out of disk space or read damaged files."""
