"""What the commands share: options, the kinds of values they take, and the model that they ask for."""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

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


def add_capture_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model is captured."""
    parser.add_argument("--sequence-length", type=positive, metavar="S", help="tokens a sample, for hf: targets")
    parser.add_argument("--front-end", metavar="NAME", help="what captures the model: torch_export (default), fx_trace")
    parser.add_argument(
        "--keep-whole",
        type=keep_whole,
        metavar="A,B",
        help="names of modules that are not looked into, as in 'model.layers.*.mlp'; each is called as it is. 'auto' "
        "keeps those that cannot be captured",
    )


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is searched, and the pins."""
    parser.add_argument("--precision", metavar="NAME", help="as-built (default), bf16-mixed, fp16-mixed or fp8-mixed")
    parser.add_argument(
        "--stack", metavar="NAME", help="the software whose behaviour is predicted (default: autopart's own runtime)"
    )
    parser.add_argument(
        "--search-seconds", type=amount, metavar="S", help="end the search after this time with the best so far"
    )
    parser.add_argument(
        "--memory-limit",
        dest="memory_limit_bytes",
        type=gibibytes,
        metavar="GIB",
        help="what a stage may need of a device's memory (default: all that the device has)",
    )
    pins = parser.add_argument_group("pins", "each fixes one decision; all others are searched")
    pins.add_argument("--tp", type=positive, metavar="N", help="tensor parallel degree")
    pins.add_argument("--pp", type=positive, metavar="N", help="pipeline parallel degree")
    pins.add_argument("--dp", type=positive, metavar="N", help="data parallel degree")
    pins.add_argument("--cp", type=positive, metavar="N", help="context parallel degree: planned, but not run yet")
    pins.add_argument("--micro-batch", type=positive, metavar="N", help="samples a micro-batch")
    pins.add_argument("--recompute", metavar="WHAT", help="activation recomputation: none, selective, full, full:1/2")
    pins.add_argument("--zero", type=int, choices=(0, 1, 2, 3), help="ZeRO stage")
    pins.add_argument("--schedule", metavar="NAME", help="pipeline schedule, as 1f1b, interleaved-1f1b or zb-h1")
    pins.add_argument("--virtual-stages", type=positive, metavar="N", help="stages each rank of the pipeline has")
    pins.add_argument("--cuts", type=names, metavar="A,B", help="names of the modules at which the later stages begin")
    pins.add_argument(
        "--placement",
        dest="placements",
        action="append",
        type=placement,
        metavar="NAME=S(0)",
        help="how the tp ranks hold a parameter: R whole, S(0) its first dim sharded; 'model.layers.*.up.weight=S(0)' "
        "pins those of all layers; may be given several times",
    )
    pins.add_argument(
        "--sequence-parallel",
        action=argparse.BooleanOptionalAction,
        help="shard what goes from layer to layer along the sequence, or nothing along it",
    )


def pins_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that fix a decision, by the names of `Pins`."""
    from autopart.planning import Pins

    pins = {item.name: getattr(arguments, item.name) for item in fields(Pins) if hasattr(arguments, item.name)}
    return pins | {"placements": dict(arguments.placements) if arguments.placements else None}


def load_model(arguments: argparse.Namespace) -> "tuple[nn.Module, object | None]":
    """The model that is asked for and its example batch."""
    from autopart.capture.target import load_target

    with warnings_in_a_line():
        return load_target(arguments.target, arguments.sequence_length)


def load_ruled_model(arguments: argparse.Namespace) -> "Ruled":
    """The model that is asked for, captured and with its rules; or the graph that was saved of one.

    Raises:
        PinError: an option that says how to capture a model, for a graph that was saved.
    """
    from autopart.sharding.load_ruled import load_ruled

    how = {name: getattr(arguments, name, None) for name in ("sequence_length", "front_end", "keep_whole")}
    if arguments.target.startswith(GRAPH):
        given = [name for name, value in how.items() if value is not None]
        if given:
            option = given[0].replace("_", "-")
            raise PinError(
                f"--{option} says how to capture a model, and {arguments.target} is captured already: give it to "
                "'autopart capture'"
            )
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


def gibibytes(text: str) -> float:
    """Bytes, from a number of GiB above 0."""
    return amount(text) * 2**30


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
