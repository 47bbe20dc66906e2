"""What one case is: a call as plain data that prints as it is written, and operands for it. Depends on numpy only."""

import ast
from typing import NamedTuple

import ml_dtypes
import numpy as np

FRONTS = ("tf", "torch", "onnx", "lax", "keras", "layers", "sharded")
FLOATS, COMPLEX = ("float16", "bfloat16", "float32", "float64"), ("complex64", "complex128")


def dtype_of(name):
    """A numpy dtype by its name, bfloat16 included."""
    return np.dtype(getattr(ml_dtypes, name, name))


class Case(NamedTuple):
    """One call of one function, without operands."""

    front: str
    function: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    b: tuple[int, ...] | None = None
    dtype: str = "float32"
    keywords: dict[str, object] = {}  # noqa: RUF012  # never changed
    transform: str = "vjp"
    x64: bool = False
    exact: bool = True  # operands are small integers, so that every sum is exact
    wrong: str = ""  # which argument is made invalid on purpose
    mesh: dict[str, object] = {}  # noqa: RUF012

    def __repr__(self):
        defaults = self._field_defaults
        given = [f"{key}={value!r}" for key, value in self._asdict().items() if key not in defaults or value != defaults[key]]
        return f"Case({', '.join(given)})"

    @property
    def text(self):
        """What `parse` reads."""
        return repr(self._asdict())

    @property
    def result_dtype(self):
        return str(self.keywords.get("preferred_element_type") or self.dtype)

    @property
    def differentiable(self):
        return self.dtype in FLOATS + COMPLEX


def parse(text):
    """A case from its text."""
    return Case(**ast.literal_eval(text))


def operands(case, shapes):
    """Arrays of these shapes, by name, in the dtype of the case; g and its like in that of the result."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        dtype = dtype_of(case.result_dtype if name[0] == "g" else case.dtype)
        value = rng.integers(-3, 4, shape) if case.exact or not case.differentiable else rng.standard_normal(shape)
        if dtype.kind == "c":
            value = value + 1j * (rng.integers(-3, 4, shape) if case.exact else rng.standard_normal(shape))
        arrays[name] = np.asarray(value).astype(dtype)
    return arrays
