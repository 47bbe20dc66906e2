"""tune: what it finds and measures, the choice by a table, its file, and that no trace is stale. Times are made up."""

import json
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdeconv
from jaxdeconv import Tuning, _contractions, _measure, _partitioning, _tune, accelerate, load_tuning, tune
from jaxdeconv._command import main
from jaxdeconv._lowerings import unable
from jaxdeconv._tuning import Case, Measured

X, W = np.random.default_rng(0).standard_normal((2, 9, 6)), np.random.default_rng(1).standard_normal((4, 5, 6))
CONTRACTIONS = ("transpose", "input_grad", "filter_grad")


def op(x, w, **keywords):
    return jaxdeconv.conv1d_transpose(x, w, None, 2, **keywords)


def loss(x, w, **keywords):
    return jnp.sum(jnp.sin(op(x, w, **keywords)))


@pytest.fixture(autouse=True)
def times(monkeypatch):
    """The seconds that each lowering takes; "polyphase", which no estimate chooses here, is the fastest."""
    seconds = {"dilated": 3.0, "matmul": 2.0, "polyphase": 1.0}
    monkeypatch.setattr(_tune, "medians", lambda runs, rounds, within: {name: seconds.get(name, 4.0) for name in runs})
    return seconds


def tuned(function=op, *arguments, **keywords):
    return tune(function, *(arguments or (X, W)), progress=False, **keywords)


def chosen(function=op, *arguments):
    """By explain, on CPU."""
    found = jaxdeconv.explain(function, *(arguments or (X, W))).lowerings
    return [found[contraction]["cpu"] for contraction in CONTRACTIONS]


def program(function, *arguments):
    return re.sub(r" at 0x\w+", "", str(jax.make_jaxpr(function)(*arguments)))


def convolutions(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text().count("stablehlo.convolution")


# What is found and measured.


def test_op_and_both_gradients_are_measured():
    tuning = tuned()
    assert [case.contraction for case in tuning.entries] == list(CONTRACTIONS)
    for case, found in tuning.entries.items():
        assert case[:2] == ("cpu", jax.devices()[0].device_kind)
        assert (case.sizes.batch, case.sizes.spatial, case.sizes.in_channels, case.sizes.out_channels) == (2, (9,), 6, 5)
        assert case.dtype == "float64"
        assert dict(found.seconds) == {"dilated": 3.0, "matmul": 2.0, "polyphase": 1.0, "taps": 4.0}
        assert found.refused == ()
    assert [found.estimated for found in tuning.entries.values()] == chosen()


def test_every_lowering_that_is_measured_is_computed(monkeypatch):
    def counted(runs, rounds, within):
        for run in runs.values():
            run()
        return dict.fromkeys(runs, 1.0)

    names = []
    contract = _tune.contract

    def seen(target, operands, form):
        names.append(form.options.implementation)
        return contract(target, operands, form)

    monkeypatch.setattr(_tune, "contract", seen)
    monkeypatch.setattr(_tune, "medians", counted)
    tuned(contractions=["input_grad"])
    assert sorted(filter(None, names)) == ["dilated", "matmul", "polyphase", "taps"]


def test_all_runs_on_the_device_that_the_table_is_of(monkeypatch):
    used = []
    monkeypatch.setattr(_tune, "medians", lambda runs, rounds, within: used.extend(run().devices() for run in runs.values()) or {})
    with jax.default_device(jax.devices()[1]):
        tuned()
    assert used == [{jax.devices()[0]}] * 12


def test_contractions_can_be_restricted():
    assert [case.contraction for case in tuned(contractions=("filter_grad",)).entries] == ["filter_grad"]


def in_jit(x, w):
    return jax.jit(op)(x, w)


def in_scan(x, w):
    return lax.scan(lambda carry, _: (carry, op(x, carry)), w, None, length=2)[1]


def in_cond(x, w):
    return lax.cond(x[0, 0, 0] > 0, op, lambda x, w: op(x, w) + 1, x, w)


def in_gradient(x, w):
    return jax.grad(loss, (0, 1))(x, w)


def in_remat(x, w):
    return jax.grad(jax.checkpoint(loss))(x, w)


def in_forward_mode(x, w):
    return jax.jvp(lambda x: op(x, w, forward_mode=True), (x,), (x,))


@pytest.mark.parametrize("function", [in_jit, in_scan, in_cond, in_gradient, in_remat, in_forward_mode])
def test_ops_are_found_wherever_they_are(function):
    function(X, W)  # what was traced before is found as well
    jitted = jax.jit(function)
    jitted(X, W)
    assert tuned(jitted, jnp.asarray(X), jnp.asarray(W)) == tuned()


def test_one_entry_for_alike_ops_and_others_for_others():
    function = lambda x, w: (op(x, w), op(x, w, name="again"), op(x, w[:2]))  # noqa: E731
    assert len(tuned(function).entries) == 6


def test_arguments_may_be_abstract_and_of_any_structure():
    found = tuned(lambda given, stride: op(given["x"], given["w"]), {"x": jax.ShapeDtypeStruct(X.shape, X.dtype), "w": W}, 2)
    assert found == tuned()


def test_integers_have_no_gradients():
    assert [case.contraction for case in tuned(op, X.astype(np.int32), W.astype(np.int32)).entries] == ["transpose"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "complex128"])
def test_dtypes(dtype):
    def of_dtype(function, dtype):
        return function(
            lambda x, w: jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME"), X.astype(dtype), np.swapaxes(W, 1, 2).astype(dtype)
        )

    tuning, other = of_dtype(tuned, dtype), "bfloat16" if dtype == "float16" else "float16"
    assert {case.dtype for case in tuning.entries} == {dtype}
    assert not any(found.refused for found in tuning.entries.values())
    expected = of_dtype(chosen, other)
    with jaxdeconv.defaults(tuning=tuning):
        assert of_dtype(chosen, dtype) == ["polyphase"] * 3
        assert of_dtype(chosen, other) == expected


def test_what_differs_is_not_taken_and_what_fails(monkeypatch, times):
    contract = _tune.contract

    def wrong(target, operands, form):
        result = contract(target, operands, form)
        if form.options.implementation == "polyphase":
            return result * (jnp.nan if target == "w" else 1.01)
        if form.options.implementation == "matmul" and target == "y":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory\nfor it")
        return result

    monkeypatch.setattr(_tune, "contract", wrong)
    tuning = tuned()
    of_transpose, _, of_filter = tuning.entries.values()
    assert dict(of_transpose.refused)["matmul"] == "RESOURCE_EXHAUSTED: no memory"
    assert re.match(r"it differs by 1\.0e-02 of", dict(of_transpose.refused)["polyphase"])
    assert re.match("it differs by nan of", dict(of_filter.refused)["polyphase"])
    assert "    polyphase is not taken: it differs by 1.0e-02 of the largest value" in str(tuning)
    with jaxdeconv.defaults(tuning=tuning):
        assert chosen() == ["dilated", "matmul", "matmul"]
    times["matmul"] = 4.0
    with jaxdeconv.defaults(tuning=tuned()):
        assert chosen() == ["dilated"] * 3


def test_what_is_estimated_to_be_slow_is_tried_if_asked_for(monkeypatch):
    monkeypatch.setattr(_tune, "estimate", lambda name, *_: {"dilated": 1.0, "matmul": 19.0, "polyphase": 21.0, "taps": 22.0}[name])
    for thorough, expected in ((False, {"dilated", "matmul"}), (True, {"dilated", "matmul", "polyphase", "taps"})):
        assert {*dict(next(iter(tuned(thorough=thorough).entries.values())).seconds)} == expected


def test_progress(capsys):
    lines = []
    tune(op, X, W, progress=lines.append)
    assert lines[1] == "tune: 2 of 3, input_grad of float64[2, 9, 6] -> [2, 18, 5], kernel 4, stride 2"
    assert capsys.readouterr() == ("", "")
    tune(op, X, W)
    assert capsys.readouterr().err.splitlines() == lines


def test_medians_alternate_and_drop_what_is_slow(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(_measure.time, "perf_counter", lambda: now[0])

    def taking(name, *seconds):
        each = iter(seconds)

        def run():
            order.append(name)
            now[0] += next(each)

        return run

    found = _measure.medians({"a": taking("a", 1, 3, 2), "b": taking("b", 1.5, 1.5, 9), "c": taking("c", 4.5)}, 3, within=2)
    assert order == ["a", "b", "c", "a", "b", "a", "b"]
    assert found == {"a": 2, "b": 1.5, "c": 4.5}
    assert _measure.medians({"a": taking("a", *[0.0078125] * 9)}, 3) == {"a": 0.0078125}  # three calls a sample


# The choice.


def test_a_table_changes_the_choice_and_no_number():
    def gradients(**keywords):
        return jax.value_and_grad(lambda x, w: loss(x, w, **keywords), (0, 1))

    outside, before, expected = program(gradients(), X, W), chosen(), jax.jit(gradients())(X, W)
    assert "polyphase" not in before
    with jaxdeconv.defaults(tuning=tuned()):
        assert chosen() == ["polyphase"] * 3
        assert convolutions(gradients(), X, W) == convolutions(gradients(implementation="polyphase"), X, W) == 3
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), jax.jit(gradients())(X, W), expected)
        with jaxdeconv.defaults(tuning=Tuning()):
            assert chosen() == before
            assert program(gradients(), X, W) == outside
    assert chosen() == before
    assert program(gradients(), X, W) == outside


def test_each_contraction_has_its_own(times):
    entries = tuned().entries
    names = dict(zip(CONTRACTIONS, ("matmul", "polyphase", "dilated"), strict=True))
    table = {case: found._replace(seconds=((names[case.contraction], 1e-3),)) for case, found in entries.items()}
    with jaxdeconv.defaults(tuning=Tuning(table)):
        assert chosen() == list(names.values())


def test_rules_that_are_traced_later_have_the_choice_too():
    with jaxdeconv.defaults(tuning=tuned()):
        _, pull = jax.vjp(op, X, W)
    g = jnp.ones((2, 18, 5))
    _, named = jax.vjp(lambda x, w: op(x, w, implementation="polyphase"), X, W)
    assert convolutions(pull, g) == convolutions(named, g) == 2


def test_what_is_estimated_stays_unless_another_is_measurably_faster():
    case = next(iter(tuned().entries))
    for seconds, expected in ((1.02, "matmul"), (1.04, "polyphase")):
        found = Measured("matmul", (("matmul", seconds), ("polyphase", 1.0)))
        assert Tuning({case: found}).chosen(case, ["dilated", "matmul", "polyphase"]) == expected
    assert Tuning({case: found}).chosen(case, ["dilated", "matmul"]) == "matmul"
    assert Tuning({case: found}).chosen(case, ["dilated"]) is None
    assert Tuning({case: found}).chosen(case._replace(device_kind="another"), ["matmul"]) is None


def test_what_no_longer_applies_is_ignored(monkeypatch):
    expected = chosen()
    entries = tuned().entries
    unknown = {case: found._replace(seconds=(("warp", 1e-9),)) for case, found in entries.items()}
    cannot = {case: found._replace(seconds=(("elementwise", 1e-9),)) for case, found in entries.items()}
    assert unable("elementwise", "transpose", next(iter(entries)).sizes)
    for table in (unknown, cannot):
        with jaxdeconv.defaults(tuning=Tuning(table)):
            assert chosen() == expected
            op(X, W)


def test_other_sizes_and_other_devices_are_estimated():
    expected = chosen(op, X[:1], W), chosen()
    tuning = tuned()
    with jaxdeconv.defaults(tuning=tuning):
        assert chosen(op, X[:1], W) == expected[0]
        found = jaxdeconv.explain(op, X, W).lowerings["transpose"]
        assert found["cpu"] == "polyphase"
        assert "polyphase" not in (found["gpu"], found["tpu"])
    elsewhere = Tuning({case._replace(device_kind="another"): found for case, found in tuning.entries.items()})
    with jaxdeconv.defaults(tuning=elsewhere):
        assert chosen() == expected[1]


def test_devices_are_asked_for_where_there_is_a_table_alone(monkeypatch):
    def asked():
        raise AssertionError

    tuning = tuned()
    monkeypatch.setattr(_contractions, "device", asked)
    expected = chosen()
    assert program(op, X, W)
    with jaxdeconv.defaults(tuning=tuning), pytest.raises(AssertionError):
        chosen()
    assert chosen() == expected


def choice(platform, tuning, monkeypatch, **options):
    monkeypatch.setattr(_contractions, "device", lambda: (platform, "a kind"))
    case = next(case for case in tuning.entries if case.contraction == "transpose")
    options = _contractions.Options("f", "f", np.dtype(case.dtype), tuning=tuning, **options)
    return _contractions.choices_of("transpose", case.sizes, options, options.dtype)


def test_what_a_mesh_makes_unsafe_is_not_chosen(monkeypatch):
    found = next(iter(tuned().entries.items()))
    for platform, axes, expected in (
        ("cpu", 0, "polyphase"),
        ("cpu", 1, "polyphase"),  # it is right over one axis
        ("cpu", 2, "matmul"),  # no convolution is over two
        ("gpu", 0, "polyphase"),
        ("gpu", 1, "matmul"),  # "polyphase" does not shard well
        ("tpu", 2, "matmul"),
    ):
        tuning = Tuning({found[0]._replace(platform=platform, device_kind="a kind"): found[1]})
        choices = choice(platform, tuning, monkeypatch, axes=axes)
        assert choices[platform] == expected, (platform, axes)
        empty = choice(platform, tuning, monkeypatch, axes=axes) | choice("none", tuning, monkeypatch, axes=axes)
        assert {name: each for name, each in choices.items() if name != platform} == {
            name: each for name, each in empty.items() if name != platform
        }


def test_a_name_wins():
    tuning = tuned()
    with jaxdeconv.defaults(tuning=tuning):
        assert chosen(lambda x, w: op(x, w, implementation="dilated")) == ["dilated"] * 3
        with jaxdeconv.defaults(implementation="matmul"):
            assert chosen() == ["matmul"] * 3


def test_explicit_mesh(monkeypatch):
    monkeypatch.setattr(_partitioning, "devices", jax.device_count)
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
        w = jax.device_put(W, NamedSharding(mesh, PartitionSpec()))
        tuning = tuned(loss, x, w)
        expected = jax.grad(loss)(x, w)
        with jaxdeconv.defaults(tuning=tuning):
            np.testing.assert_allclose(jax.grad(loss)(x, w), expected, rtol=1e-10)
    assert {case.sizes.batch for case in tuning.entries} == {2}


# No trace is stale.


def test_functions_jitted_before_are_traced_again():
    traces = []

    @jax.jit
    def function(x, w):
        traces.append(True)
        return loss(x, w)

    tuning = tuned()
    outside = function.lower(X, W).as_text()
    function(X, W)
    assert len(traces) == 1
    for _ in range(2):
        with jaxdeconv.defaults(tuning=tuning):
            function(X, W)
            assert len(traces) == 2
            assert function.lower(X, W).as_text() != outside
        function(X, W)
        assert len(traces) == 2
        assert function.lower(X, W).as_text() == outside
    with jaxdeconv.defaults(tuning=load_copy(tuning)):  # equal, so not traced again
        function(X, W)
    assert len(traces) == 2
    with jaxdeconv.defaults(tuning=Tuning()):
        assert function.lower(X, W).as_text() == outside


def load_copy(tuning):
    return pickle.loads(pickle.dumps(tuning))


def test_eager_calls_are_not_stale():
    tuning = tuned()
    compiled = jaxdeconv._call.jaxdeconv_call
    op(X, W)
    size = compiled._cache_size()
    with jaxdeconv.defaults(tuning=tuning):
        op(X, W)
        op(X, W)
        assert compiled._cache_size() == size + 1
    op(X, W)
    assert compiled._cache_size() == size + 1


def test_scan():
    tuning = tuned(in_scan)
    expected = in_scan(X, W)
    with jaxdeconv.defaults(tuning=tuning):
        np.testing.assert_allclose(jax.jit(in_scan)(X, W), expected, rtol=1e-10)
        inside = program(in_scan, X, W)
    assert inside != program(in_scan, X, W)


def test_vmap():
    """The sizes are those of the whole batch, which the choice sees."""
    mapped = jax.vmap(op, (0, None))
    xs = np.stack([X, 2 * X, 3 * X])
    tuning = tuned(mapped, xs, W)
    assert {case.sizes.batch for case in tuning.entries} == {6}
    assert {case.sizes.batch for case in tuned(jax.vmap(op), xs, np.stack([W] * 3)).entries} == {2}
    expected, outside = mapped(xs, W), jax.jit(mapped).lower(xs, W).as_text()
    with jaxdeconv.defaults(tuning=tuning):
        assert jax.jit(mapped).lower(xs, W).as_text() != outside
        np.testing.assert_allclose(mapped(xs, W), expected, rtol=1e-10)
    with jaxdeconv.defaults(tuning=tuned()):
        assert jax.jit(mapped).lower(xs, W).as_text() == outside


# Functions of `accelerate`.


def by_lax(x, w):
    """JAX's own, with lax's filters."""
    return lax.conv_transpose(x, jnp.swapaxes(w, 1, 2)[::-1], (2,), "SAME")


def test_accelerated_functions():
    step = accelerate(jax.jit(jax.grad(lambda w, x: jnp.sum(by_lax(x, w) ** 2))))
    expected = step(W, X)
    before = [row.lowerings["cpu"] for row in step.explain(W, X).rows]
    tuning = tuned(step, W, X)
    assert tuning == tuned()
    outside = program(step, W, X)
    with jaxdeconv.defaults(tuning=tuning):
        assert [row.lowerings["cpu"] for row in step.explain(W, X).rows] == ["polyphase"] * 2
        assert program(step, W, X) != outside
        np.testing.assert_allclose(step(W, X), expected, rtol=1e-10)
    assert [row.lowerings["cpu"] for row in step.explain(W, X).rows] == before
    assert program(step, W, X) == outside


def test_a_program_that_was_edited_before_is_edited_again():
    """Even where it is one object, in and outside of the context."""
    known = jax.make_jaxpr(jax.jit(by_lax))(X, W)
    step = accelerate(lambda x, w: jax.extend.core.jaxpr_as_fun(known)(x, w)[0])
    outside = program(step, X, W)
    with jaxdeconv.defaults(tuning=tuned()):
        assert program(step, X, W) != outside
    assert program(step, X, W) == outside


def test_rules_of_others_that_are_edited_later():
    """In a call that was traced with a table, even where they are used outside."""
    ruled = jax.custom_vjp(lambda x: by_lax(x, W))
    ruled.defvjp(lambda x: (by_lax(x, W), x), lambda x, g: jax.vjp(lambda x: by_lax(x, W), x)[1](g))
    step, g = accelerate(lambda x: ruled(x)), jnp.ones((2, 18, 5))
    with jaxdeconv.defaults(tuning=tuned()):
        _, pull = jax.vjp(step, X)
    _, outside = jax.vjp(step, X)
    assert program(pull, g) != program(outside, g)
    np.testing.assert_allclose(pull(g)[0], outside(g)[0], rtol=1e-10)


def test_ordinary_convolutions_that_are_accelerated():
    strided = lambda x, w: lax.conv_general_dilated(x, w, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))  # noqa: E731
    step, w = accelerate(strided), np.swapaxes(W, 1, 2)
    tuning = tuned(step, X, w)
    assert [found.estimated for found in tuning.entries.values()][1] == step.explain(X, w).rows[0].lowerings["cpu"]
    with jaxdeconv.defaults(tuning=tuning):
        assert step.explain(X, w).rows[0].lowerings["cpu"] == "polyphase"
        np.testing.assert_allclose(step(X, w), strided(X, w), rtol=1e-10)


# Tables and their files.


def test_tables_are_immutable_and_hashed_once(monkeypatch):
    tuning = tuned()
    with pytest.raises(TypeError):
        tuning.entries[next(iter(tuning.entries))] = None
    with pytest.raises(AttributeError):
        tuning.entries = {}
    same = load_copy(tuning)
    assert (same, hash(same)) == (tuning, hash(tuning))
    assert tuning != Tuning()
    assert tuning != 1
    monkeypatch.setattr(Case, "__hash__", None)
    assert hash(tuning) == hash(same)


def test_files(tmp_path):
    function = lambda x, w: (op(x, w), jaxdeconv.torch.conv_transpose2d(jnp.ones((1, 4, 3, 3)), jnp.ones((4, 1, 2, 3)), groups=2))  # noqa: E731
    tuning = tuned(function)
    tuning = Tuning({case: found._replace(refused=(("warp", 'why "not"\n'),)) for case, found in tuning.entries.items()})
    path = tmp_path / "tuning.json"
    tuning.save(path)
    found = load_tuning(path)
    assert found == tuning
    assert hash(found) == hash(tuning)
    held = json.loads(path.read_text())
    assert (held["format"], held["version"], len(held["entries"])) == ("jaxdeconv tuning", 1, 6)
    first = path.read_text()
    found.save(str(path))
    assert path.read_text() == first
    Tuning().save(path)
    assert load_tuning(str(path)) == Tuning()


def row(**changes):
    case, found = next(iter(tuned().entries.items()))
    return jaxdeconv._tuning._row(case, found) | changes


WRONG = [
    ("", "it holds no JSON"),
    ("\xff", "it holds no JSON"),
    ("[1", "it holds no JSON"),
    ("[]", "it holds JSON of another format than 'jaxdeconv tuning'"),
    ({"format": "another", "version": 1, "entries": []}, "it holds JSON of another format"),
    ({"format": "jaxdeconv tuning", "version": 1}, "it holds JSON of another format"),
    ({"version": 2}, "it is of version 2, and this release reads version 1"),
    ({"version": None}, "it is of version None"),
]
WRONG_ROWS = [
    {"kernel": None},
    {"kernel": "4"},
    {"kernel": [4.5]},
    {"kernel": [4, 4]},
    {"strides": [0]},
    {"dtype": "float65"},
    {"dtype": "f8"},
    {"contraction": "correlation"},
    {"platform": 3},
    {"seconds": {"matmul": 0}},
    {"seconds": {"matmul": float("nan")}},
    {"seconds": ["matmul"]},
    {"refused": {"matmul": 1}},
    {"channels_last": 2},
    {"another": 1},
]


@pytest.mark.parametrize(("held", "why"), [*WRONG, *((changes, "it has an entry, number 0, that is none") for changes in WRONG_ROWS)])
def test_files_that_are_none(held, why, tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    if isinstance(held, str):
        path.write_bytes(held.encode("latin-1"))
    else:
        whole = {"format": "jaxdeconv tuning", "version": 1, "entries": [row(**held)]} if "number" in why else held
        path.write_text(json.dumps({"format": "jaxdeconv tuning", "entries": []} | whole if "version" in why else whole))
    rule = f"must be a file that Tuning.save wrote, and {re.escape(why)}"
    with pytest.raises(ValueError, match=rf"^load_tuning: path {rule}.*, got path='.*tuning.json'; pass the path of"):
        load_tuning(path)
    monkeypatch.setenv("JAXDECONV_TUNING", str(path))
    with pytest.raises(ValueError, match=rf"^conv1d_transpose: JAXDECONV_TUNING {rule}.* got JAXDECONV_TUNING='"):
        op(X, W)


def test_a_file_with_an_entry_left_out_is_no_error(tmp_path):
    (tmp_path / "tuning.json").write_text(json.dumps({"format": "jaxdeconv tuning", "version": 1, "entries": [row()]}))
    assert len(load_tuning(tmp_path / "tuning.json").entries) == 1


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="load_tuning: path must be a file that can be read, and it cannot: No such file"):
        load_tuning(tmp_path / "none.json")
    with pytest.raises(TypeError, match="load_tuning: path must be a string or a path, got path=3; pass that of what"):
        load_tuning(3)


def test_merging(times):
    first, other = tuned(), tuned(op, X[:1], W)
    times["dilated"] = 0.1
    again = tuned()
    assert len((first | other).entries) == 6
    assert first | again == again
    assert again | first == first
    with pytest.raises(TypeError):
        first | {}
    with jaxdeconv.defaults(tuning=first | other | again):
        assert chosen() == ["dilated"] * 3
        assert chosen(op, X[:1], W) == ["polyphase"] * 3


def test_environment(tmp_path, monkeypatch):
    expected = chosen()
    path = tmp_path / "tuning.json"
    tuned().save(path)
    monkeypatch.setenv("JAXDECONV_TUNING", str(path))
    assert chosen() == ["polyphase"] * 3
    assert tuned(accelerate(by_lax)) == load_tuning(path)  # estimates are those without
    with jaxdeconv.defaults(tuning=Tuning()):
        assert chosen() == expected
    with jaxdeconv.defaults(forward_mode=True):
        assert chosen()[0] == "polyphase"
    monkeypatch.setenv("JAXDECONV_TUNING", "")
    assert chosen() == expected


def test_printed():
    case = next(iter(tuned().entries))._replace(platform="gpu", device_kind="A kind")
    table = {
        case: Measured("dilated", (("dilated", 3e-3), ("matmul", 1.5e-3)), (("polyphase", "it differs"),)),
        case._replace(contraction="input_grad"): Measured("matmul", (("matmul", 1e-3),)),
        case._replace(contraction="filter_grad"): Measured("matmul", ()),
    }
    assert str(Tuning(table)) == (
        "gpu, A kind: 1 of 3 choices change\n"
        "all together: 4 ms by estimate, 2.5 ms as measured\n"
        "               by estimate  ms  measured   ms  ratio\n"
        "float64[2, 9, 6] -> [2, 18, 5], kernel 4, stride 2\n"
        "  transpose    dilated       3  matmul    1.5  2.00x\n"
        "    polyphase is not taken: it differs\n"
        "  input_grad   matmul        1  matmul      1  1.00x\n"
        "  filter_grad  matmul        -  -           -      -"
    )
    assert repr(Tuning(table)) == "Tuning(<3 entries>)"


# Errors, and the command line.


@pytest.mark.parametrize(
    ("kind", "arguments", "keywords", "message"),
    [
        (TypeError, (3,), {}, "tune: function must be callable, got function=3"),
        (ValueError, (jnp.sin, X), {}, "tune: function must compute a transposed convolution of this package"),
        (ValueError, (by_lax, X, W), {}, r"pass jaxdeconv.accelerate\(function\)"),
        (
            ValueError,
            (lambda x, w: op(x, w, implementation="matmul"), X, W),
            {},
            "names no implementation, and all name one, got",
        ),
        (
            ValueError,
            (lambda x, w: op(x, w)[:0], X[:0], W),
            {},
            "tune: function must compute a transposed convolution that has something to compute, and all are empty",
        ),
        (ValueError, (op, X, W), {"contractions": "transpose"}, "tune: contractions must be a collection of names, got"),
        (ValueError, (op, X, W), {"contractions": ["forward"]}, "tune: contractions must be 'transpose' or"),
        (ValueError, (op, X, W), {"contractions": ()}, "tune: contractions must be a collection of names, got"),
        (ValueError, (op, X, W), {"rounds": 0}, "tune: rounds must be positive, got rounds=0"),
        (TypeError, (op, X, W), {"rounds": 1.5}, "tune: rounds must be of integers, got"),
        (TypeError, (op, X, W), {"thorough": 1}, "tune: thorough must be False or True, got"),
        (TypeError, (op, X, W), {"progress": 1}, "tune: progress must be False or True, got"),
    ],
)
def test_errors(kind, arguments, keywords, message):
    with pytest.raises(kind, match=message):
        tune(*arguments, **keywords)


def test_symbolic_sizes_are_not_measured():
    (b,) = jax.export.symbolic_shape("b")
    with pytest.raises(ValueError, match=r"tune: .* whose sizes are known, and those of all are symbolic, got .*; pass arrays"):
        tune(op, jax.ShapeDtypeStruct((b, 9, 6), "float32"), jax.ShapeDtypeStruct(W.shape, "float32"))


def test_a_file_that_is_to_be_written_need_not_be_there(tmp_path, capsys, monkeypatch):
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("JAXDECONV_TUNING", str(path))
    assert tuned().entries
    assert main(f"tune tf --input 1,9,6 --filters 4,5,6 --strides 2 --rounds 1 --save {path}".split()) == 0
    assert len(load_tuning(path).entries) == 3


def test_errors_of_defaults():
    message = r"defaults: tuning must be a Tuning or None, got tuning='a.json'; .* load_tuning\(path\)"
    with pytest.raises(TypeError, match=message), jaxdeconv.defaults(tuning="a.json"):
        pass


def test_what_defaults_has():
    message = r"defaults: arguments must be implementation, forward_mode or tuning, got implmentation='matmul'; "
    with pytest.raises(TypeError, match=message), jaxdeconv.defaults(implmentation="matmul"):
        pass


def test_command_line(tmp_path, capsys, monkeypatch, times):
    path = tmp_path / "tuning.json"
    line = "tune torch --input 1,6,9 --weight 6,5,4 --stride 2 --padding 1 --rounds 1"
    layer = line.split()
    assert main([*layer, "--save", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"cpu, {jax.devices()[0].device_kind}: 3 of 3 choices change\n")
    assert out.endswith(f"\nwritten to {path}; JAXDECONV_TUNING={path} uses it\n")
    assert err.count("tune: ") == 3
    assert main([*layer, "--dtype", "bfloat16", "--save", str(path), "--thorough"]) == 0
    assert {case.dtype for case in load_tuning(path).entries} == {"float32", "bfloat16"}
    capsys.readouterr()
    monkeypatch.setenv("JAXDECONV_TUNING", str(path))
    assert main(["explain", *layer[1:-2]]) == 0
    assert capsys.readouterr().out.count("cpu  polyphase") == 3
    monkeypatch.delenv("JAXDECONV_TUNING")
    assert main([*layer[:-1], "0"]) == 1
    assert "tune: rounds must be positive" in capsys.readouterr().err
    path.write_text("none")
    assert main([*layer, "--save", str(path)]) == 1
    assert "error: load_tuning: path must be a file that Tuning.save wrote" in capsys.readouterr().err
    assert main([*layer, "--save", str(tmp_path / "no" / "folder")]) == 1
    err = capsys.readouterr().err
    assert re.search("error: tune: save must be a path in a folder that can be written to, got save='.*folder'; make the folder", err)
    assert err.count("\n") == 1  # nothing was measured before


def test_command_line_where_lowerings_disagree(capsys, monkeypatch):
    monkeypatch.setattr(_tune, "tolerance", lambda *_: -1.0)
    line = "tune tf --input 1,9,6 --filters 4,5,6 --strides 2 --rounds 1"
    assert main(line.split()) == 1
    out, err = capsys.readouterr()
    assert "is not taken" in out
    assert err.endswith("error: the lowerings disagree, or fail\n")
