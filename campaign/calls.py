"""A case as a function of x, w and perhaps b: ours, or a framework's own layer."""

import importlib

import jax
import jax.numpy as jnp

MODULES = {"tf": "", "sharded": "", "torch": ".torch", "onnx": ".onnx", "lax": ".lax", "keras": ".keras"}
FRAMEWORKS = {"nnx": "flax.nnx", "linen": "flax.linen", "eqx": "equinox.nn", "haiku": "haiku"}


def module(case):
    """The name of the module that the function is in."""
    return "jaxdeconv" + MODULES.get(case.front, "." + case.function.split(".")[0])


def keywords(case):
    """The keywords of a case; dtypes by name become dtypes."""
    given = dict(case.keywords)
    if isinstance(dtype := given.get("preferred_element_type"), str) and hasattr(jnp, dtype):
        given["preferred_element_type"] = jnp.dtype(dtype)
    return given


def ours(case):
    """The function of jaxdeconv."""
    if case.front == "layers":
        return _layer(case, module(case))
    function, given = getattr(importlib.import_module(module(case)), case.function), keywords(case)
    return lambda *operands: function(*operands, **given)


def theirs(case):
    """The layer of the framework, or None where it lacks a feature of ours."""
    kind = case.function.split(".")[0]
    given = case.keywords
    lacks = {
        "nnx": ("feature_group_count", "output_padding"),
        "linen": ("feature_group_count", "output_padding"),
        "haiku": ("groups",),
    }
    if any(given.get(name) for name in lacks.get(kind, ())) or given.get("padding") == "CAUSAL":
        return None
    plain = {name: value for name, value in given.items() if name not in ("implementation", "forward_mode", *lacks.get(kind, ()))}
    return _layer(case._replace(keywords=plain), FRAMEWORKS[kind])


def _layer(case, path):
    """A layer with x, w and b as its input and parameters."""
    kind, name = case.function.split(".")
    cls, given = getattr(importlib.import_module(path), name), keywords(case)

    def nnx(x, w, *b):
        from flax.nnx import Rngs

        n, groups, transposed = w.ndim - 2, given.get("feature_group_count", 1), given.get("transpose_kernel")
        inputs, outputs = (w.shape[-1], w.shape[-2] * groups) if transposed else (w.shape[-2] * groups, w.shape[-1])
        made = {"kernel_init": lambda *_: w, "bias_init": lambda *_: b[0]}
        return cls(inputs, outputs, w.shape[:n], use_bias=bool(b), rngs=Rngs(0), param_dtype=w.dtype, **made, **given)(x)

    def linen(x, w, *b):
        groups = given.get("feature_group_count", 1)
        features = w.shape[-2] * groups if given.get("transpose_kernel") else w.shape[-1]
        layer = cls(features, w.shape[:-2], use_bias=bool(b), param_dtype=w.dtype, **given)
        return layer.apply({"params": {"kernel": w} | ({"bias": b[0]} if b else {})}, x)

    def eqx(x, w, *b):
        import equinox

        n, groups = w.ndim - 2, given.get("groups", 1)
        sizes = (n,) if name == "ConvTranspose" else ()
        made = equinox.filter_eval_shape(
            lambda: cls(
                *sizes, w.shape[1] * groups, w.shape[0], w.shape[2:], use_bias=bool(b), dtype=w.dtype, key=jax.random.key(0), **given
            )
        )
        layer = equinox.tree_at(lambda layer: layer.weight, made, w)
        return (equinox.tree_at(lambda layer: layer.bias, layer, b[0]) if b else layer)(x)

    def haiku(x, w, *b):
        import haiku as hk

        n = w.ndim - 2
        sizes = (n,) if name == "ConvNDTranspose" else ()
        out = w.shape[-2] * given.get("groups", 1)
        model = hk.without_apply_rng(
            hk.transform(lambda x: cls(*sizes, out, w.shape[:n], with_bias=bool(b), name="layer", **given)(x))
        )
        return model.apply({"layer": {"w": w} | ({"b": b[0]} if b else {})}, x)

    return {"nnx": nnx, "linen": linen, "eqx": eqx, "haiku": haiku}[kind]
