"""Seconds and bytes on real hardware: numbers in `devices/` and `clusters/`, formulas in the modules.

Knows no graph and no torch. To add a GPU or a cluster, add one toml file to its folder.
"""
