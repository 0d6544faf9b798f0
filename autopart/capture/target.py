"""A target of the command line: the text that names a model, and the model made from it on the meta device."""

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from autopart.capture.hf_target import load_hf
from autopart.errors import AutopartError, CaptureError, InputsError, UnknownNameError

_FORMS = "write file.py:function, package.module:function or hf:DIRECTORY-OR-CONFIG.json"
_META = "It runs under torch.device('meta'), so that nothing is allocated: build the model there, and load no weights"


def load_target(target: str, sequence_length: int | None = None) -> tuple[nn.Module, object | None]:
    """The model that `target` names, and its example batch where the target gives one; tensors are made on `meta`.

    Args:
        target: `file.py:function` or `package.module:function`, called without arguments and returning a model or
            (model, batch), or `hf:` and a local directory or json file with the config of a Hugging Face model.
        sequence_length: of the batch made for an `hf:` target; None leaves the batch to be derived from the model.

    Raises:
        UnknownNameError: `target` has another form, or what it names is not there.
        CaptureError: its code fails, or returns no model.
        InputsError: `sequence_length` for a target that makes no causal language model.
    """
    kind, _, rest = target.partition(":")
    if kind == "hf":
        return load_hf(rest, sequence_length)
    if sequence_length is not None:
        raise InputsError(
            f"a sequence length is only for hf: targets; {target!r} gives its own batch: return (model, batch) from it"
        )
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise UnknownNameError(f"target {target!r} names no function: {_FORMS}{_suggestion(target)}")
    module = _import_file(target, Path(place)) if place.endswith(".py") else _import_module(target, place)
    made = getattr(module, name, None)
    if made is None:
        known = ", ".join(_functions(module)) or "none"
        raise UnknownNameError(f"{place} has no function {name!r}; it has: {known}")
    if not isinstance(made, nn.Module):
        made = _call(target, made, module)
    return _model_and_batch(target, made)


def _suggestion(target: str) -> str:
    """The functions of a file that was named without one; the file is read, not run."""
    path = Path(target.rstrip(":"))
    if path.suffix != ".py" or not path.is_file():
        return ""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ""
    names = [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
    ]
    return f"; {path} has: {', '.join(names)}" if names else ""


def _functions(module: ModuleType) -> list[str]:
    """The public functions and classes that `module` itself defines."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]


def _import_file(target: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UnknownNameError(f"target {target!r}: there is no file {str(path)!r} (seen from {Path.cwd()}): {_FORMS}")
    path = path.resolve()
    _put_first(path.parent)
    # A name of its own: a user's torch.py or test.py shall not hide another module.
    spec = importlib.util.spec_from_file_location(f"autopart_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UnknownNameError(f"target {target!r}: {path} cannot be imported as Python: {_FORMS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    loader = spec.loader
    _guarded(f"importing {path}", lambda: loader.exec_module(module), str(path))
    return module


def _import_module(target: str, name: str) -> ModuleType:
    _put_first(Path.cwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise UnknownNameError(f"target {target!r}: {name!r} is not the name of a Python module: {_FORMS}")
    try:
        module: ModuleType = _guarded(f"importing {name}", lambda: importlib.import_module(name), None)
    except CaptureError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{name}.".startswith(f"{cause.name}."):
            raise UnknownNameError(
                f"target {target!r}: there is no module {cause.name!r} in {Path.cwd()} or installed: {_FORMS}"
            ) from cause
        raise
    return module


def _put_first(folder: Path) -> None:
    """Let imports find the neighbours of the user's code, now and during capture, as `python file.py` does."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _call(target: str, function: Any, module: ModuleType) -> object:
    if not callable(function):
        raise CaptureError(
            f"target {target!r} is of type {type(function).__name__}, not a function that returns a model"
        )
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Some builtins have no signature.
        parameters = {}.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [item.name for item in parameters if item.default is item.empty and item.kind not in variadic]
    if needed:
        raise CaptureError(
            f"target {target!r} is called without arguments, but needs {', '.join(needed)}: "
            "give them defaults, or write a function without arguments that calls it"
        )
    with torch.device("meta"):
        return _guarded(f"calling {target}", function, getattr(module, "__file__", None), f". {_META}")


def _guarded(doing: str, action: Callable[[], Any], file: str | None, hint: str = "") -> Any:
    """What `action` returns; if it fails, an error that names the line in the user's code."""
    try:
        return action()
    except AutopartError:
        raise
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = "" if isinstance(error, ImportError) else hint
        raise CaptureError(f"{doing} failed{_place(error, file)}: {text}{hint}") from error


def _place(error: BaseException, file: str | None) -> str:
    """The file and line to look at: the innermost in the user's `file`, or else outside of installed packages."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if frame.filename == file]
    near = [frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith("<")]
    last = next(reversed(own or near), None)
    return f" at {last.filename}:{last.lineno}" if last else ""


def _model_and_batch(target: str, made: object) -> tuple[nn.Module, object | None]:
    if isinstance(made, nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], made[1]
    what = (
        f"({', '.join(type(item).__name__ for item in made)})"
        if isinstance(made, tuple)
        else f"a {type(made).__name__}"
    )
    raise CaptureError(f"target {target!r} returned {what}: return a torch.nn.Module, or (module, example batch)")
