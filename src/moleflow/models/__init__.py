"""Patch models, as normalizing flows and in closed form."""
