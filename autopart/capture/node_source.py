"""The source of a node: the module that it ran in, and the user's line."""

import torch

FULL = "autopart_full"


def scope(node: torch.fx.Node) -> str:
    """The path of the module that the node ran in, as the user names it ("transformer.h.0.attn")."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    path = paths[-1] if paths else ""
    for prefix in ("L['self'].", "L__self__."):
        path = path.removeprefix(prefix)
    return "" if path == "model" else path.removeprefix("model.")


def mark_full(node: torch.fx.Node) -> None:
    """Note that `node` is in a region without autocast; the note outlives export's passes."""
    node.meta["custom"] = {**(node.meta.get("custom") or {}), FULL: True}


def is_full(node: torch.fx.Node) -> bool:
    """Whether `mark_full` was told of it."""
    return FULL in (node.meta.get("custom") or {})


def location(node: torch.fx.Node) -> str:
    """The user's file and line: the innermost frame outside torch."""
    lines = [
        line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip().startswith("File ")
    ]
    foreign = ("/torch/", "/autopart/capture/", 'File "<')  # the last are graphs that torch runs again
    outside = [line for line in lines if not any(part in line for part in foreign)]
    if not outside:
        return ""
    file, line, *_ = outside[-1].removeprefix("File ").split(", ")
    return f"{file.strip(chr(34))}:{line.removeprefix('line ')}"
