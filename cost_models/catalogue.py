"""Finding a toml file by its name in a folder, or by its path."""

from pathlib import Path

from cost_models.errors import UnknownCostModelError


def file_names(folder: Path) -> tuple[str, ...]:
    """The names in `folder`: its toml files without the ending, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def find_file(name_or_path: str | Path, folder: Path, kind: str) -> Path:
    """The file meant by `name_or_path`: a name in `folder`, or a path, which ends in `.toml`.

    Raises:
        UnknownCostModelError: there is no such file; the message calls it a `kind` and lists the known names.
    """
    is_path = isinstance(name_or_path, Path) or name_or_path.endswith(".toml")
    path = Path(name_or_path) if is_path else folder / f"{name_or_path}.toml"
    known = file_names(folder)
    # Matching against the listing, not the disk, keeps "../devices/x" from being a name.
    if path.is_file() if is_path else name_or_path in known:
        return path
    what = f"there is no {kind} file {str(path)!r}" if is_path else f"unknown {kind} {name_or_path!r}"
    raise UnknownCostModelError(
        f"{what}; known: {', '.join(known)} (the files of {folder}). "
        "To use another, add a toml file there or pass the path of one"
    )
