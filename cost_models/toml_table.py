"""Reading a toml file strictly: every key is taken once and checked, and none is left over."""

import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from cost_models.errors import CostModelFileError

Item = TypeVar("Item", str, int)


class TomlTable:
    """One table of a toml file. Take each key with a typed method, then call `finish`.

    Every method raises `CostModelFileError`, naming the file and the key, if the value is missing or unfit.
    """

    __slots__ = ("_path", "_prefix", "_rest")

    def __init__(self, path: Path, values: dict[str, Any], prefix: str = "") -> None:
        """`values` of the file at `path`; `prefix` stands before the keys in messages."""
        self._path = path
        self._rest = dict(values)
        self._prefix = prefix

    @classmethod
    def read(cls, path: Path) -> "TomlTable":
        """The whole file.

        Raises:
            CostModelFileError: it cannot be read, or is not toml.
        """
        try:
            return cls(path, tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise CostModelFileError(f"{path}: cannot be read as toml: {error}") from error

    def error(self, key: str, problem: str) -> CostModelFileError:
        """An error about `key`, to be raised."""
        return CostModelFileError(f"{self._path}: key {self._prefix + key!r} {problem}")

    def _take(self, key: str) -> Any:
        if key not in self._rest:
            raise self.error(key, "is missing")
        return self._rest.pop(key)

    def has(self, key: str) -> bool:
        """Whether `key` is there and not yet taken."""
        return key in self._rest

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self._take(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"must be a non-empty string, not {value!r}")
        return value

    def number(self, key: str, *, least: float | None = None, at_most: float = math.inf) -> float:
        """A finite number no greater than `at_most`, and of at least `least` or, left out, above 0."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"must be a number, not {value!r}")
        enough = value > 0 if least is None else value >= least
        if not (math.isfinite(value) and enough and value <= at_most):
            low = "above 0" if least is None else f"of at least {least:g}"
            limit = "" if at_most == math.inf else f" and at most {at_most:g}"
            raise self.error(key, f"must be a finite number {low}{limit}, not {value!r}")
        return float(value)

    def truth(self, key: str) -> bool:
        """True or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        """One of the `known` strings."""
        value = self.text(key)
        if value not in known:
            raise self.error(key, f"must be one of {', '.join(known)}, not {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of different strings, perhaps none."""
        return self._array(key, str)

    def some_of(self, key: str, known: tuple[Item, ...]) -> tuple[Item, ...]:
        """An array of at least one of the `known` values, each once."""
        values = self._array(key, type(known[0]))
        if not values or any(value not in known for value in values):
            raise self.error(key, f"must be some of {', '.join(map(str, known))}, not {list(values)!r}")
        return values

    def _array(self, key: str, kind: type[Item]) -> tuple[Item, ...]:
        values = self._take(key)
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise self.error(key, f"must be an array of {kind.__name__}, not {values!r}")
        if len(set(values)) != len(values):
            raise self.error(key, f"has something twice: {values!r}")
        return tuple(values)

    def fraction(self, key: str) -> float:
        """A number above 0, at most 1."""
        return self.number(key, at_most=1.0)

    def whole(self, key: str) -> int:
        """A whole number of at least 1."""
        value = self.number(key)
        if value != int(value):
            raise self.error(key, f"must be a whole number, not {value!r}")
        return int(value)

    def table(self, key: str) -> "TomlTable":
        """A table within this one."""
        value = self._take(key)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table, not {value!r}")
        return TomlTable(self._path, value, f"{self._prefix}{key}.")

    def tables(self, key: str) -> tuple["TomlTable", ...]:
        """An array of at least one table."""
        value = self._take(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "must be one or more tables, written [[" + self._prefix + key + "]]")
        return tuple(TomlTable(self._path, item, f"{self._prefix}{key}[{i}].") for i, item in enumerate(value))

    def sources(self, keys: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """The `[sources]` table: one string for each of `keys`, which says where the figure is from."""
        table = self.table("sources")
        taken = tuple((key, table.text(key)) for key in keys)
        table.finish()
        return taken

    def finish(self) -> None:
        """Check that no key is left."""
        for key in self._rest:
            raise self.error(key, "is unknown")
