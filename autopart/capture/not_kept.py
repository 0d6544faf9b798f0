"""not_kept: the error that says why a module cannot be kept whole."""

from autopart.errors import CaptureError, Place


def not_kept(path: str, reason: str) -> CaptureError:
    """An error whose one place is the module at `path`, so that a module around it can be kept instead."""
    return CaptureError(f"{path} cannot be kept whole: {reason}", (Place("", "", path, reason, "", (path,)),))
