"""What the commands have in common: the model that is asked for, and the kinds of values that options take."""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autopart.errors import PinError

if TYPE_CHECKING:
    from torch import nn

    from autopart.sharding.ruled import Ruled

GRAPH = "graph:"
TARGET = """TARGET is one of
  file.py:function           called without arguments; returns a model, or (model, example batch)
  package.module:function    the same
  hf:DIRECTORY-OR-CONFIG     a local Hugging Face config.json or the directory it is in
  graph:FILE                 what 'autopart capture' saved; needs no torch, and starts at once
The model is made on the meta device: nothing is allocated, nothing is downloaded, no GPU is needed."""


def load_model(arguments: argparse.Namespace) -> "tuple[nn.Module, object | None]":
    """The model that is asked for and its example batch."""
    from autopart.capture.target import load_target

    with warnings_in_a_line():
        return load_target(arguments.target, arguments.sequence_length)


def load_ruled_model(arguments: argparse.Namespace) -> "Ruled":
    """The model that is asked for, captured and with its rules; or the graph that was saved of one.

    Raises:
        PinError: an option that says how to capture a model, for a graph that has been.
    """
    from autopart.sharding.load_ruled import load_ruled

    how = {name: getattr(arguments, name, None) for name in ("sequence_length", "front_end", "keep_whole")}
    if arguments.target.startswith(GRAPH):
        given = [name for name, value in how.items() if value is not None]
        if given:
            option = given[0].replace("_", "-")
            raise PinError(f"--{option} says how to capture a model, and {arguments.target} has been: capture it again")
        return load_ruled(arguments.target.removeprefix(GRAPH))
    from autopart import api

    model, inputs = load_model(arguments)
    with warnings_in_a_line():
        return api.prepare(model, inputs, keep_whole=how["keep_whole"], front_end=how["front_end"])


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Warnings of the user's kind are told in a line each, without the code that raised them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def positive(text: str) -> int:
    """A whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers above 0, with commas between them."""
    return tuple(positive(part) for part in text.split(","))


def amount(text: str) -> float:
    """A number above 0, as 1e12."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of module names, as in model.layers.20,model.layers.40"
        )
    return found


def placement(text: str) -> tuple[str, str]:
    """A parameter's name and its placement, as NAME=S(0)."""
    name, separator, own = text.rpartition("=")
    if not (separator and name and own):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PLACEMENT, as in 'model.layers.*.up_proj.weight=S(0)'")
    return name, own


def keep_whole(text: str) -> str | tuple[str, ...]:
    """Names of modules that are kept whole, or "auto"."""
    return text if text == "auto" else names(text)
