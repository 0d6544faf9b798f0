"""Calibration: device and cluster files measured on the machine at hand.

`measure` runs in every process and imports torch, alone in `cost_models`; `fit` makes figures of what it found, and
`write` makes files of the figures.
"""
