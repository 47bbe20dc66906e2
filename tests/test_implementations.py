"""The contract of every lowering: it computes each contraction as the oracle does, and it is the one that runs when named."""

from types import MappingProxyType
from typing import get_args

import cases
import jax
import numpy as np
import pytest

import jaxdeconv
from jaxdeconv import _trilinear as trilinear
from jaxdeconv._lowerings import LOWERINGS, Contraction

IMPLEMENTATIONS = get_args(jaxdeconv.Implementation)


def test_the_table_is_complete_and_immutable():
    assert set(LOWERINGS) == {(contraction, name) for contraction in get_args(Contraction) for name in IMPLEMENTATIONS}
    with pytest.raises(TypeError):
        LOWERINGS["transpose", "dilated"] = None


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, None])
def test_each_runs_when_named_and_is_right(implementation, monkeypatch):
    ran = []

    def recording(key, lowering):
        def run(*arguments, **keywords):
            ran.append(key)
            return lowering(*arguments, **keywords)

        return run

    table = {key: recording(key, lowering) for key, lowering in LOWERINGS.items()}
    monkeypatch.setattr(trilinear, "LOWERINGS", MappingProxyType(table))
    for index, case in enumerate(cases.GRID[::37]):
        x, w, g = case.operands()
        keywords = case.keywords | {"implementation": implementation, "name": f"contract_{implementation}_{index}"}
        y, vjp = jax.vjp(lambda x, w, keywords=keywords: jaxdeconv.conv1d_transpose(x, w, **keywords), x, w)
        for actual, expected in zip((y, *vjp(g)), case.expected(x, w, g), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
        assert {contraction for contraction, _ in ran} == set(get_args(Contraction))
        assert implementation is None or {name for _, name in ran} == {implementation}
        ran.clear()
