"""Patch models that are fitted in closed form."""
