"""Run folders: identity, locking, progress and reading."""
