"""Fault injection: real processes that are killed, starved of disk and fed damaged files, and what remains of them."""
