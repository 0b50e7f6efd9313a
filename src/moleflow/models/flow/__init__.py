"""Normalizing flows with shared coupling blocks and modules of each expert."""
