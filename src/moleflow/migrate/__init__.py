"""Turns a command line of the first implementation into one of this program."""
