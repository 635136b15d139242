"""NumPy 2 inside the Python backend that the nvidia-pytriton wheel carries.

That backend's stub was compiled with a pybind11 that knows only NumPy 1. NumPy 2 moved the item size inside
its dtype structure, so the stub reads another field in its place and takes every item to be 0 bytes long.
Arrays made from requests get strides of 0 (every value is the first one, and strings cannot be read at all),
and numbers given as outputs count as empty. `apply` mends both:

- A pybind11 of that age finds NumPy's C functions through ``numpy.core.multiarray._ARRAY_API``, a table that
  NumPy 2 keeps there for it alone, and reads it once. It gets a copy of the table in which
  ``PyArray_NewFromDescr`` leaves strides of 0 to NumPy, which computes them from the true item size.
- Outputs of numbers are made through DLPack, which carries their size. DLPack knows no strings: their bytes
  are handed over with a dtype in which the field that the stub reads says what it should.

It runs inside the stub before the first array is made: `orchestrator.runtime.triton.install` has the unpacked
``triton_python_backend_utils.py`` call it. Servers whose backend knows NumPy 2 (NVIDIA's images) never do.
"""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any, Final

import numpy as np

HOOK: Final = """

# Added by spark-speech: this backend's pybind11 predates NumPy 2.
from orchestrator.runtime.numpy2 import apply as _apply_numpy2

_apply_numpy2()
"""
"""What is appended to the backend's ``triton_python_backend_utils.py``."""

_NEW_FROM_DESCR: Final = 94
"""The index of ``PyArray_NewFromDescr``; NumPy keeps its indices for good (numpy_api.py in its sources)."""
_TABLE_SIZE: Final = 300
"""What pybind11 reads of the table (its last index is 282), and less than NumPy 2.0 has (over 360)."""

_DTYPE_STATE: Final = (3, "|", None, None, None, 1, 1)
"""``dtype.__setstate__`` of one byte without meaning; the eighth entry, flags, is what the stub reads."""
_DLPACK: Final = b"dltensor"
_DLPACK_USED: Final = b"used_dltensor"
"""Names of DLPack capsules before and after somebody has taken the tensor over (DLPack's specification)."""
_KEPT: list[Any] = []
"""What the stub holds only pointers to and Python must therefore not free."""


_CAPSULE_POINTER: Final = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_NEW_CAPSULE: Final = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_RENAME_CAPSULE: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)


def apply() -> None:
    """Mend this process; does nothing with NumPy 1."""
    if int(np.__version__.partition(".")[0]) < 2:
        return
    import c_python_backend_utils  # type: ignore[import-not-found]  # built into the stub
    import numpy.core.multiarray as table_holder  # the old name is the point
    import triton_python_backend_utils  # what calls this

    vars(table_holder)["_ARRAY_API"] = _repaired(vars(table_holder)["_ARRAY_API"])
    _repair_outputs(c_python_backend_utils, triton_python_backend_utils)


def _repaired(capsule: object) -> object:
    """A capsule with a copy of the table in which strides of 0 are left to NumPy."""
    original = (ctypes.c_void_p * _TABLE_SIZE).from_address(_CAPSULE_POINTER(capsule, None))
    table = (ctypes.c_void_p * _TABLE_SIZE)(*original)

    # (type, dtype, dimensions, shape, strides, data, flags, object) -> array; pointers stay numbers, so that
    # ctypes touches no reference count. PYFUNCTYPE keeps the interpreter's lock, as the caller holds it.
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signature = ctypes.PYFUNCTYPE(
        pointer, pointer, pointer, number, pointer, ctypes.POINTER(ctypes.c_ssize_t), pointer, number, pointer
    )
    new_from_descr = signature(original[_NEW_FROM_DESCR] or 0)

    def without_zero_strides(
        kind: Any, dtype: Any, dimensions: int, shape: Any, strides: Any, data: Any, flags: int, owner: Any
    ) -> Any:
        impossible = bool(strides) and not any(strides[axis] for axis in range(dimensions))
        return new_from_descr(
            kind, dtype, dimensions, shape, None if impossible else strides, data, flags, owner
        )

    replacement = signature(without_zero_strides)
    table[_NEW_FROM_DESCR] = ctypes.cast(replacement, pointer).value
    _KEPT.extend([capsule, table, replacement])
    return _NEW_CAPSULE(ctypes.addressof(table), None, None)


def _repair_outputs(backend: ModuleType, utilities: ModuleType) -> None:
    """Put a constructor in place of the stub's ``Tensor`` that knows the size of what it is given."""
    tensor_type = backend.Tensor
    serialize = utilities.serialize_byte_tensor
    one_byte: Any = np.dtype("V1")

    def serialize_byte_tensor(array: Any) -> Any:
        text = serialize(array)
        counted = np.ndarray((len(text),), dtype=one_byte, buffer=text) if text else text
        one_byte.__setstate__((*_DTYPE_STATE, 1))  # from here: items of 1 byte
        return counted

    class Tensor:
        """``pb_utils.Tensor(name, array)``; makes the stub's own tensors."""

        from_dlpack = staticmethod(tensor_type.from_dlpack)

        def __new__(cls, name: str, values: Any) -> Any:
            array = np.ascontiguousarray(values)
            if array.dtype.kind not in "OSU":
                return tensor_type.from_dlpack(name, _dlpack(array))
            try:
                return tensor_type(name, array)
            finally:  # the flag means something to NumPy too, so it stands only while the stub looks
                one_byte.__setstate__((*_DTYPE_STATE, 0))

    vars(backend)["Tensor"] = Tensor
    vars(utilities)["serialize_byte_tensor"] = serialize_byte_tensor


def _dlpack(array: Any) -> object:
    """The array's DLPack capsule, one whose end is silent.

    The stub marks a capsule it has used with a name that NumPy's own capsules take for an error.
    """
    if not array.flags.writeable:  # NumPy does not export those
        array = array.copy()
    capsule = array.__dlpack__()
    pointer = _CAPSULE_POINTER(capsule, _DLPACK)
    _RENAME_CAPSULE(capsule, _DLPACK_USED)
    return _NEW_CAPSULE(pointer, _DLPACK, None)
