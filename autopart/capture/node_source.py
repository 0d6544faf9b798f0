"""The source of a node: the module that it ran in, and the user's line."""

import torch


def scope(node: torch.fx.Node) -> str:
    """The path of the module that the node ran in, as the user names it ("transformer.h.0.attn")."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    path = paths[-1] if paths else ""
    for prefix in ("L['self'].", "L__self__."):
        path = path.removeprefix(prefix)
    return "" if path == "model" else path.removeprefix("model.")


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
