"""The text of a source file: its head, a class for every distinct block, and the stage."""

from collections.abc import Mapping
from dataclasses import dataclass

from autopart.emit.spelling import shape_comment
from autopart.ir.size import Size

HELD = ("comm", "stacks", "kept")  # what emitted modules hold besides weights


@dataclass(frozen=True)
class BlockSource:
    """One function with the class around it: its weights, arguments with shapes, lines and what it returns.

    `methods` are others that it calls; `flag` says whether it is told to compute them again.
    """

    name: str
    about: str
    members: str
    arguments: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[Size, ...], str]]
    lines: tuple[str, ...]
    returned: str
    methods: "tuple[BlockSource, ...]" = ()
    flag: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """All lines of all functions."""
        return (*self.lines, self.returned, *(line for method in self.methods for line in method.texts))

    def forward(self, name: str = "forward", about: str = "") -> str:
        """The method."""
        arguments = ", ".join(["self", *(f"{argument}: torch.Tensor" for argument in self.arguments)])
        doc = [about] if about else []
        doc += [f"{argument}: {dtype}{shape_comment(shape)}" for argument, (shape, dtype) in self.shapes.items()]
        lines = [f"    def {name}({arguments}{', selective: bool = False' if self.flag else ''}):"]
        if doc:
            lines += [f'        """{doc[0]}', *(f"        {line}" for line in doc[1:])]
            lines[-1] += '"""'
        body = [f"        {part}" for line in self.lines for part in line.split("\n")]
        return "\n".join([*lines, *body, f"        return {self.returned}"])


@dataclass(frozen=True)
class StageSource:
    """A whole file."""

    model: str
    facts: str
    blocks: tuple[BlockSource, ...]
    members: str
    forward: BlockSource
    counts: BlockSource | None

    def text(self) -> str:
        """The file, ready to be written."""
        body = "\n\n\n".join([*(self._block(block) for block in self.blocks), self._stage()])
        runtime = [
            name
            for name in ("Comm", "Weights", "constant", "grouped_mm", "parameter")
            if f"{name}(" in body or f": {name}" in body or f"({name})" in body
        ]
        imports = ["import torch"]
        if "F." in body:
            imports.append("import torch.nn.functional as F")
        if "checkpoint(" in body:
            imports.append("from torch.utils.checkpoint import checkpoint")
        head = f'"""A stage of {self.model}, written by autopart.\n\n{self.facts}\n"""'
        return (
            f"{head}\n\n" + "\n".join(imports) + f"\n\nfrom autopart.runtime import {', '.join(runtime)}\n\n\n{body}\n"
        )

    def _block(self, block: BlockSource) -> str:
        uses_comm = any("self.comm" in line for line in block.texts)
        lines = [f"class {block.name}(Weights):", f'    """{block.about}"""', ""]
        lines.append(f"    def __init__(self{', comm: Comm' if uses_comm else ''}) -> None:")
        lines.append(f"        super().__init__({block.members})")
        if uses_comm:
            lines.append("        self.hold(comm=comm)")
        lines += _held_kept(block)
        methods = [text for method in block.methods for text in ("", method.forward(method.name))]
        return "\n".join([*lines, "", block.forward(), *methods])

    def _stage(self) -> str:
        lines = [
            "class Stage(Weights):",
            '    """The stage: what enters `forward` and what leaves it is listed in the program."""',
            "",
        ]
        lines.append("    def __init__(self, comm: Comm, layers: tuple[tuple[tuple[str, ...], ...], ...]) -> None:")
        lines.append(f"        super().__init__({self.members})")
        built = []
        for number, block in enumerate(self.blocks):
            uses_comm = any("self.comm" in line for line in block.texts)
            built.append(
                f"[self.attach(paths, {block.name}({'comm' if uses_comm else ''})) for paths in layers[{number}]]"
            )
        lines.append("        self.hold(comm=comm)")
        lines += _held_kept(self.forward)
        if built:
            lines.append(f"        self.hold(stacks=({', '.join(built)},))")
        parts = ["\n".join(lines), self.forward.forward()]
        if self.counts is not None:
            parts.append(self.counts.forward("counts", self.counts.about))
        return "\n\n".join(parts)


def _held_kept(block: BlockSource) -> list[str]:
    """The line that makes room for modules kept whole."""
    calls = any("self.kept[" in line for line in block.texts)
    return ["        self.hold(kept={})  # the model's own modules, which the loader brings"] if calls else []


def path_text(path: str) -> str:
    """`.model.norm.weight`, with `["0"]` for what is no name."""
    return "".join(
        f".{part}" if part.isidentifier() and part not in HELD else f'["{part}"]' for part in path.split(".")
    )


def weights_text(leaves: Mapping[str, str], indent: int) -> str:
    """The arguments of `Weights(...)`, nested along the dots of the names."""
    tree: dict[str, object] = {}
    for path, leaf in leaves.items():
        node = tree
        *parents, last = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})  # type: ignore[assignment]
        node[last] = leaf
    return _nested(tree, indent)


def _nested(tree: Mapping[str, object], indent: int) -> str:
    if not tree:
        return ""
    pad = " " * (indent + 4)
    named: list[tuple[str, str]] = []
    other: list[tuple[str, str]] = []
    for name, item in tree.items():
        text = item if isinstance(item, str) else f"Weights({_nested(item, indent + 4)})"  # type: ignore[arg-type]
        (named if name.isidentifier() else other).append((name, text))
    lines = [f"{pad}{name}={text}," for name, text in named]
    lines += [f'{pad}**{{"{name}": {text}}},' for name, text in other]
    return "\n" + "\n".join(lines) + "\n" + " " * indent
