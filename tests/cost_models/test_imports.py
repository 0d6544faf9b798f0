"""The package stands alone."""

import subprocess
import sys
from pathlib import Path


def test_no_torch_and_no_autopart() -> None:
    """Importing all of it but `calibrate`, and loading a cluster, pulls in neither."""
    root = Path(__file__).parents[2]
    modules = sorted(
        path.stem for path in (root / "cost_models").glob("*.py") if path.stem not in ("__init__", "calibrate")
    )
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module('cost_models.' + name)\n"
        "sys.modules['cost_models.cluster'].load_cluster('dgx-h100')\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'autopart', 'sympy'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
