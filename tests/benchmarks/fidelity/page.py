"""Page: the text of `docs/fidelity.md`."""


def page(tables: str, constants: str, count: int) -> str:
    """The page, given the tables that the command prints and the fitted constants."""
    return f"{_HEAD}\n{tables}\n\n## Fitted constants\n\nThere are {count}.\n\n{constants}\n"


_HEAD = "# Fidelity\n"
