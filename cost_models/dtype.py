"""Element types by the names that torch gives them."""

from cost_models.errors import UnknownCostModelError

_SIZES_BYTES = {
    "float64": 8,
    "float32": 4,
    "tf32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float8": 1,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
}


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element of `dtype`, a torch name without the prefix ("bfloat16"); "tf32" and "float8" also work.

    Raises:
        UnknownCostModelError: no such dtype.
    """
    try:
        return _SIZES_BYTES[dtype]
    except KeyError:
        raise UnknownCostModelError(f"unknown dtype {dtype!r}; known: {', '.join(_SIZES_BYTES)}") from None
