"""Which calls are made: as users write them and as devils do. A case follows from (front-end, seed, index) alone."""

import importlib.util
import math

import numpy as np

from campaign.case import COMPLEX, FLOATS, FRONTS, Case
from campaign.transforms import DIFFERENTIABLE, INTEGERS

GROUP = 16  # cases that are compiled together; they share the setting of jax_enable_x64


class Dice:
    """Random choices of plain Python values."""

    def __init__(self, *seed):
        self.rng = np.random.default_rng(seed)

    def chance(self, p):
        """True with probability p."""
        return bool(self.rng.random() < p)

    def int(self, low, high):
        """From low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def ints(self, low, high, n):
        """n of them."""
        return [self.int(low, high) for _ in range(n)]

    def pick(self, *values):
        """One of them."""
        return values[self.int(0, len(values) - 1)]

    def weighed(self, weights):
        """A key, as often as its weight says."""
        keys = list(weights)
        p = np.array([weights[key] for key in keys], float)
        return keys[self.rng.choice(len(keys), p=p / p.sum())]


class Sizes:
    """Sizes that every convention has: of the operands, strides and dilations."""

    def __init__(self, dice, n, groups=True, dilations=True, empty=True):
        big = dice.chance(0.02)
        most = {1: 7, 2: 6, 3: 4}.get(n, 2)
        kernels = {1: 6, 2: 5, 3: 3}.get(n, 2)
        self.n = n
        self.batch = dice.weighed({0: 0.02, 1: 1, 2: 1, 3: 0.3})
        self.spatial = [dice.weighed({0: 0.03, 1: 0.4, None: 3, 40: 0.03 if n < 3 else 0}) for _ in range(n)]
        self.spatial = [dice.int(2, most) if size is None else size for size in self.spatial]
        self.kernel = dice.ints(1, kernels, n)
        self.strides = dice.ints(1, dice.pick(2, 3, 5), n)
        self.dilations = dice.ints(1, 3, n) if dilations and dice.chance(0.35) else [1] * n
        for i in range(n):  # kernel and stride that meet
            if dice.chance(0.15):
                self.kernel[i] = self.strides[i] if n < 3 else min(self.strides[i], 4)
        self.groups, ins, outs = 1, dice.int(1, 6), dice.int(1, 6)
        if groups and dice.chance(0.4):
            self.groups = dice.weighed({2: 2, 3: 2, 5: 0.5, 12: 0.1, 70: 0.02 if n == 1 else 0})
            ins, outs = (1, dice.pick(1, 1, 2, 3)) if dice.chance(0.5) else (dice.int(1, 3), dice.int(1, 3))
            if dice.chance(0.1):
                ins, outs = dice.int(2, 3), 1
        if big and n < 3:
            ins, outs = dice.pick(8, 16, 33), dice.pick(8, 16, 33)
            if n == 1:
                self.spatial, self.kernel = [dice.int(8, 90)], [dice.int(1, 16)]
        if empty and dice.chance(0.01):
            ins = 0
        self.ins, self.outs = ins * self.groups, outs * self.groups
        self.full = [
            (size - 1) * s + (k - 1) * d + 1
            for size, k, s, d in zip(self.spatial, self.kernel, self.strides, self.dilations, strict=True)
        ]
        self.effective = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def x(self, first):
        """The shape of x."""
        return (self.batch, self.ins, *self.spatial) if first else (self.batch, *self.spatial, self.ins)


def _numbers(dice, values):
    """One number for all where they are equal, or else a list or a tuple of them."""
    if len(set(values)) == 1 and dice.chance(0.5):
        return values[0]
    return tuple(values) if dice.chance(0.5) else list(values)


def _window(dice, ke, full, s):
    """What is cut from both ends of the full sum, negative to add: usual and odd."""
    how = dice.weighed({"none": 1, "usual": 2.5, "add": 0.7, "mixed": 1.2, "large": 1.2, "short": 0.6, "all": 0.1})
    if how == "none":
        return 0, 0
    if how == "usual":
        return dice.int(0, ke - 1), dice.int(0, ke - 1)
    if how == "add":
        return -dice.int(0, s + 1), -dice.int(0, s + 1)
    if how == "mixed":
        pair = -dice.int(0, 2 * s + 2), dice.int(0, ke + s + 2)
        return pair if dice.chance(0.5) else pair[::-1]
    if how == "large":  # whole taps or whole inputs are cut away
        lo = dice.int(0, ke + 2 * s + 1)
        return lo, dice.int(0, max(full - lo, 0))
    length = dice.int(0, 1) if how == "short" else 0
    lo = dice.int(-2, full + 1)
    return lo, full - lo - length


def _ndim(dice, four=False):
    return dice.weighed({1: 5, 2: 3.5, 3: 1.2, 4: 0.15 * four})


def _how(dice, case, x64, integers=(), complex=True):
    """dtype, transformation, and the keywords that every front-end has."""
    weights = {"float32": 10, "float16": 1, "bfloat16": 2, "float64": 5 * x64}
    if complex:
        weights |= {"complex64": 1, "complex128": 1 * x64}
    weights |= {name: 0.7 for name in integers if x64 or name != "int64"}
    dtype = dice.weighed(weights)
    given = {}
    if dice.chance(0.05):
        kinds = [FLOATS, COMPLEX, ("int8", "int16", "int32", "int64")]
        kind = next(kind for kind in kinds if dtype in kind)
        wide = [name for name in kind if (x64 or name not in ("float64", "complex128", "int64"))]
        if kind is kinds[2]:
            wide = [name for name in wide if int(name[3:]) >= int(dtype[3:])]
        given["preferred_element_type"] = dice.pick(*wide)
    if dice.chance(0.05):
        given["precision"] = dice.pick("highest", "default", "high", ("highest", "default"))
    if dice.chance(0.15):
        forms = [dice.pick("dilated", "taps", "phases") for _ in case.w[2:]]
        names = ["dilated", "matmul", "polyphase", "elementwise"]
        given["implementation"] = ",".join(forms) if len(set(forms)) > 1 else dice.pick(*names)
    table = DIFFERENTIABLE if dtype in FLOATS + COMPLEX else INTEGERS
    transform = dice.weighed({name: each.weight for name, each in table.items()})
    if transform == "shard_map" and dtype in COMPLEX:
        transform = "vjp"  # with the flags of fast chunks, XLA ends the process for sums over devices of complex constants
    if transform == "symbolic export" and case.front in ("layers", "sharded"):
        transform = "export"  # layers of frameworks ask about sizes what JAX cannot tell of symbols
    if table[transform].forward_mode or dice.chance(0.1):
        given["forward_mode"] = True
    return case._replace(dtype=dtype, transform=transform, x64=x64, exact=dice.chance(0.6), keywords=case.keywords | given)


def _tf(dice, x64, front="tf"):
    n = _ndim(dice)
    z = Sizes(dice, n)
    first = dice.chance(0.4)
    letters = "DHW"[-n:]
    data_format = f"NC{letters}" if first else dice.pick(f"N{letters}C", f"N{letters}C", None)
    padding = dice.pick("SAME", "VALID")
    given = {}
    if dice.chance(0.3 if n == 2 else 0.15):
        pads = []
        for ke, full in zip(z.effective, z.full, strict=True):
            lo = dice.int(0, dice.pick(ke - 1, ke + 2))
            pads.append([lo, dice.int(0, max(dice.pick(ke - 1, full - lo), 0))])
        padding = [[0, 0], [0, 0], *pads] if first else [[0, 0], *pads, [0, 0]]
    if z.groups > 1 or dice.chance(0.1):
        given["groups"] = z.groups
    if dice.chance(0.15):
        given["output_shape"] = None
    else:
        lengths = []
        for i, (size, full, s) in enumerate(zip(z.spatial, z.full, z.strides, strict=True)):
            cut = 0 if isinstance(padding, str) else sum(padding[i + 1 + first])
            least = (size - 1) * s + 1 if padding == "SAME" else full - cut
            past = dice.chance(0.04)
            lengths.append(max(least + dice.int(-past, s - 1 + past), 0))
        batch = -1 if dice.chance(0.1) else z.batch
        given["output_shape"] = [batch, z.outs, *lengths] if first else [batch, *lengths, z.outs]
    around = ([1, 1], []) if first else ([1], [1])
    given["strides"] = [*around[0], *z.strides, *around[1]] if dice.chance(0.2) else _numbers(dice, z.strides)
    if padding != "SAME" or dice.chance(0.5):
        given["padding"] = padding
    if data_format != f"N{letters}C" or dice.chance(0.5):
        given["data_format"] = data_format
    if set(z.dilations) != {1} or dice.chance(0.1):
        given["dilations"] = _numbers(dice, z.dilations)
    # conv_transpose has a default of None for data_format, which is channels last too.
    function = "conv_transpose" if dice.chance(0.25) else f"conv{n}d_transpose"
    case = Case(front, function, z.x(first), (*z.kernel, z.outs // z.groups, z.ins), keywords=given)
    return _how(dice, case, x64, ("int32",), complex=False)


def _torch(dice, x64):
    n = _ndim(dice)
    z = Sizes(dice, n)
    past = dice.chance(0.1)  # the last valid number, or the one past it
    extra = [dice.int(0, max(s, d) - 1 + past) if dice.chance(0.5) else 0 for s, d in zip(z.strides, z.dilations, strict=True)]
    padding = [
        dice.int(0, max(0, min((full + op - 1) // 2 + past, dice.pick(ke - 1, ke + s, full))))
        for full, op, ke, s in zip(z.full, extra, z.effective, z.strides, strict=True)
    ]
    given = {}
    for name, values, default in (
        ("stride", z.strides, 1),
        ("padding", padding, 0),
        ("output_padding", extra, 0),
        ("dilation", z.dilations, 1),
    ):
        if set(values) != {default} or dice.chance(0.2):
            given[name] = _numbers(dice, values)
    if z.groups > 1:
        given["groups"] = z.groups
    x = z.x(True) if dice.chance(0.85) else z.x(True)[1:]
    if dice.chance(0.2):
        rows = zip(z.full, padding, z.strides, strict=True)
        given["output_size"] = [full - 2 * p + dice.int(-past, s - 1 + past) for full, p, s in rows]
        if dice.chance(0.5):
            given["output_size"] = [*x[:-n], *given["output_size"]]  # of which layers of torch take the last entries alone
    b = (z.outs,) if dice.chance(0.4) else None
    case = Case("torch", f"conv_transpose{n}d", x, (z.ins, z.outs // z.groups, *z.kernel), b, keywords=given)
    return _how(dice, case, x64, ("int32", "int64"))


def _onnx(dice, x64):
    n = _ndim(dice, four=True)
    z = Sizes(dice, n)
    given = {}
    if set(z.strides) != {1} or dice.chance(0.3):
        given["strides"] = dice.pick(list, tuple)(z.strides)
    if set(z.dilations) != {1} or dice.chance(0.2):
        given["dilations"] = z.dilations
    past = dice.chance(0.1)  # the last valid number, or the one past it
    extra = [dice.int(0, max(s, d) - 1 + past) for s, d in zip(z.strides, z.dilations, strict=True)]
    extra = extra if dice.chance(0.4) else [0] * n
    if any(extra) or dice.chance(0.1):
        given["output_padding"] = extra
    auto = dice.weighed({"NOTSET": 5, "SAME_UPPER": 1, "SAME_LOWER": 1, "VALID": 0.5})
    if auto != "NOTSET" or dice.chance(0.2):
        given["auto_pad"] = auto
    if dice.chance(0.35):
        given["output_shape"] = [
            max(0, dice.pick(size * s, full, dice.int(0, full + 2 * s), full + dice.int(-3, 3)))
            for size, s, full in zip(z.spatial, z.strides, z.full, strict=True)
        ]
    if auto == "NOTSET" and dice.chance(0.6):
        pairs = [
            (max(lo, 0), max(hi, 0))
            for lo, hi in (_window(dice, ke, full, s) for ke, full, s in zip(z.effective, z.full, z.strides, strict=True))
        ]
        given["pads"] = [lo for lo, _ in pairs] + [hi for _, hi in pairs]
    if z.groups > 1 or dice.chance(0.1):
        given["group"] = z.groups
    if dice.chance(0.2):
        given["kernel_shape"] = z.kernel
    b = (z.outs,) if dice.chance(0.4) else None
    case = Case("onnx", "conv_transpose", z.x(True), (z.ins, z.outs // z.groups, *z.kernel), b, keywords=given)
    return _how(dice, case, x64, complex=False)


def _shuffled(dice, text):
    return "".join(text[i] for i in dice.rng.permutation(len(text)))


def _lax(dice, x64):
    n = _ndim(dice, four=True) if dice.chance(0.995) else 0
    z = Sizes(dice, n)
    letters = dice.pick("HWDT"[:n], "ABEF"[:n], "0123"[:n])
    how = dice.weighed({"default": 3, "usual": 2, "any": 2})
    last = f"N{letters}C", f"{letters}IO", f"N{letters}C"
    numbers = last
    if how == "usual":
        numbers = dice.pick((f"NC{letters}", f"OI{letters}", f"NC{letters}"), (f"NC{letters}", f"IO{letters}", f"NC{letters}"), last)
    elif how == "any":
        numbers = tuple(_shuffled(dice, spec) if dice.chance(0.8) else spec for spec in last)
    letters = "".join(c for c in numbers[1] if c not in "OI")  # the order of strides and padding
    given = {"strides": _numbers(dice, z.strides) if n else ()}
    transposed, consistent = dice.chance(0.4), dice.chance(0.25)
    pairs = [_window(dice, ke, full, s) for ke, full, s in zip(z.effective, z.full, z.strides, strict=True)]
    rows = pairs if consistent else [(ke - 1 - lo, ke - 1 - hi) for ke, (lo, hi) in zip(z.effective, pairs, strict=True)]
    if consistent and dice.chance(0.2):
        rows = [dice.pick("SAME", "VALID", row) for row in rows]
    padding = dice.pick(rows, rows, rows, rows, "SAME", "VALID") if n else []
    if n and set(z.strides) == {1} and not consistent and dice.chance(0.1):
        padding = dice.pick("same", "SAME_LOWER", "valid", "Same_Lower")
    given["padding"] = padding
    if set(z.dilations) != {1} or dice.chance(0.1):
        given["rhs_dilation"] = _numbers(dice, z.dilations) if n else ()
    if how != "default" or n > 3:
        given["dimension_numbers"] = numbers
    if transposed:
        given["transpose_kernel"] = True
    if consistent:
        given["use_consistent_padding"] = True
    if z.groups > 1 or dice.chance(0.1):
        given["feature_group_count"] = z.groups
    axes = dict(zip(letters, z.spatial, strict=True)) | {"N": z.batch, "C": z.ins}
    x = tuple(axes[letter] for letter in numbers[0])
    both = (z.outs // z.groups, z.ins) if transposed else (z.ins // z.groups, z.outs)
    axes = dict(zip(letters, z.kernel, strict=True)) | dict(zip("IO", both, strict=True))
    w = tuple(axes[letter] for letter in numbers[1])
    case = _how(dice, Case("lax", "conv_transpose", x, w, keywords=given), x64, ("int8", "int16", "int32", "int64"))
    if not case.differentiable and dice.chance(0.2):
        case = case._replace(keywords=case.keywords | {"preferred_element_type": dice.pick("float32", "float16", "bfloat16")})
    return case


def _keras(dice, x64):
    n = _ndim(dice)
    z = Sizes(dice, n)
    first = dice.chance(0.4)
    given = {}
    if set(z.strides) != {1} or dice.chance(0.3):
        given["strides"] = _numbers(dice, z.strides)
    if dice.chance(0.7):
        given["padding"] = dice.pick("valid", "same", "same", "SAME", "Valid")
    if dice.chance(0.5):
        given["output_padding"] = _numbers(dice, [dice.int(0, s - 1 if dice.chance(0.9) else 2 * s) for s in z.strides])
    if first or dice.chance(0.3):
        given["data_format"] = "channels_first" if first else "channels_last"
    if set(z.dilations) != {1} or dice.chance(0.1):
        given["dilation_rate"] = _numbers(dice, z.dilations)
    if z.groups > 1:
        given["groups"] = z.groups
    case = Case("keras", "conv_transpose", z.x(first), (*z.kernel, z.outs // z.groups, z.ins), keywords=given)
    return _how(dice, case, x64, ("int32", "int8", "int64"))


def _layers(dice, x64):
    available = [
        kind
        for kind, framework in {"nnx": "flax", "linen": "flax", "eqx": "equinox", "haiku": "haiku"}.items()
        if importlib.util.find_spec(framework)
    ]
    return {"nnx": _flax, "linen": _flax, "eqx": _eqx, "haiku": _haiku}[kind := dice.pick(*available)](dice, x64, kind)


def _layer(dice, case, x64):
    """A layer computes in floating and complex dtypes, and has neither precision nor preferred_element_type here."""
    case = _how(dice, case, x64, complex="output_shape" not in case.keywords)  # Haiku's is by TensorFlow's rule, which has none
    kept = {name: value for name, value in case.keywords.items() if name not in ("precision", "preferred_element_type")}
    return case._replace(keywords=kept)


def _flax(dice, x64, kind):
    n = _ndim(dice)
    z = Sizes(dice, n, empty=False)
    given = {"strides": _numbers(dice, z.strides)}
    if set(z.dilations) != {1}:
        given["kernel_dilation"] = _numbers(dice, z.dilations)
    pairs = [_window(dice, ke, full, s) for ke, full, s in zip(z.effective, z.full, z.strides, strict=True)]
    rows = [(ke - 1 - lo, ke - 1 - hi) for ke, (lo, hi) in zip(z.effective, pairs, strict=True)]
    rows = [max(row[0], 0) if dice.chance(0.2) else row for row in rows]
    circular = "CIRCULAR" if all(z.spatial) else "SAME"
    given["padding"] = dice.pick("SAME", "VALID", circular, "CAUSAL" if n == 1 else "SAME", rows, rows, dice.int(0, 3))
    transposed = dice.chance(0.4)
    if transposed:
        given["transpose_kernel"] = True
    if z.groups > 1:
        given["feature_group_count"] = z.groups
    if dice.chance(0.2) and given["padding"] != "CIRCULAR":
        given["output_padding"] = _numbers(dice, dice.ints(0, 2, n))
    batch = dice.pick((z.batch,), (z.batch,), (), (2, z.batch))
    w = (*z.kernel, z.outs // z.groups, z.ins) if transposed else (*z.kernel, z.ins // z.groups, z.outs)
    b = (z.outs,) if dice.chance(0.5) else None
    return _layer(dice, Case("layers", f"{kind}.ConvTranspose", (*batch, *z.spatial, z.ins), w, b, keywords=given), x64)


def _eqx(dice, x64, kind):
    n = _ndim(dice)
    z = Sizes(dice, n, empty=False)
    given = {"stride": _numbers(dice, z.strides)}
    if set(z.dilations) != {1}:
        given["dilation"] = _numbers(dice, z.dilations)
    given["padding"] = dice.pick("SAME", "SAME_LOWER", "VALID", dice.int(0, 2), None, None)
    if given["padding"] is None:
        given["padding"] = tuple((dice.int(0, ke), dice.int(0, ke)) for ke in z.effective)
    if z.groups > 1:
        given["groups"] = z.groups
    if dice.chance(0.4) and all(z.spatial) and given["padding"] in ("SAME", "SAME_LOWER"):
        given["padding_mode"] = "CIRCULAR"
    elif dice.chance(0.3):
        given["output_padding"] = _numbers(dice, [dice.int(0, s - 1) for s in z.strides])
    name = "ConvTranspose" if dice.chance(0.3) else f"ConvTranspose{n}d"
    b = (z.outs, *[1] * n) if dice.chance(0.5) else None
    w = (z.outs, z.ins // z.groups, *z.kernel)
    return _layer(dice, Case("layers", f"eqx.{name}", (z.ins, *z.spatial), w, b, keywords=given), x64)


def _haiku(dice, x64, kind):
    n = _ndim(dice)
    z = Sizes(dice, n, dilations=False, empty=False)
    first = dice.chance(0.4)
    letters = "DHW"[-n:]
    given = {"stride": _numbers(dice, z.strides), "padding": dice.pick("SAME", "VALID")}
    if first or dice.chance(0.3):
        given["data_format"] = f"NC{letters}" if first else f"N{letters}C"
    elif dice.chance(0.3):
        given["padding"] = [(dice.int(0, k), dice.int(0, k)) for k in z.kernel]
    if isinstance(given["padding"], str) and dice.chance(0.3):
        given["output_shape"] = [
            max(0, dice.int((size - 1) * s + 1, size * s) if given["padding"] == "SAME" else full + dice.int(0, s - 1))
            for size, s, full in zip(z.spatial, z.strides, z.full, strict=True)
        ]
    if z.groups > 1:
        given["groups"] = z.groups
    name = "ConvNDTranspose" if dice.chance(0.3) or ("data_format" in given and n == 3) else f"Conv{n}DTranspose"
    x = z.x(first) if dice.chance(0.8) else z.x(first)[1:]
    b = (z.outs, *[1] * (n * first)) if dice.chance(0.5) else None
    return _layer(dice, Case("layers", f"haiku.{name}", x, (*z.kernel, z.outs // z.groups, z.ins), b, keywords=given), x64)


def _sharded(dice, x64):
    """A convolution of TensorFlow's convention whose operands lie along axes of a mesh, or not."""
    shape = dice.pick((8,), (2, 4), (4, 2), (2, 2, 2))
    names = "abc"[: len(shape)]
    n = dice.pick(1, 1, 2)
    groups = dice.pick(1, 1, 1, 2, 8)
    spatial = [dice.pick(8, 16) if n == 1 else dice.pick(4, 8) for _ in range(n)]
    ins = dice.pick(8, 16)
    outs = dice.pick(8, 16)
    kernel, strides = dice.ints(1, 5, n), dice.ints(1, 4, n)
    first = dice.chance(0.3)
    letters = "DHW"[-n:]
    batch = dice.pick(1, 2, 4, 8)
    x = (batch, ins, *spatial) if first else (batch, *spatial, ins)
    w = (*kernel, outs // groups, ins)
    lengths = [size * s for size, s in zip(spatial, strides, strict=True)]
    y = (batch, outs, *lengths) if first else (batch, *lengths, outs)
    given = {"output_shape": list(y), "strides": strides, "data_format": f"NC{letters}" if first else f"N{letters}C"}
    if groups > 1:
        given["groups"] = groups
    if dice.chance(0.3):
        given["dilations"] = dice.int(1, 2)
    # Not those that are convolutions: XLA's partitioner computes some wrongly, and who names one gets it.
    if dice.chance(0.2):
        given["implementation"] = dice.pick("matmul", *["elementwise"] * (groups == ins == outs))

    def spec(sizes, free):
        """Each mesh axis goes to one of the array's axes that it divides, or to none."""
        entries = [()] * len(sizes)
        for name, size in zip(names, shape, strict=True):
            axis = dice.pick(*free, None)
            if axis is not None and sizes[axis] % (size * math.prod(shape[names.index(each)] for each in entries[axis])) == 0:
                entries[axis] = (*entries[axis], name)
        return tuple(entries)

    activations = list(range(n + 2))
    specs = {"x": spec(x, activations), "w": spec(w, [n, n + 1]), "g": spec(y, activations)}
    if dice.chance(0.5):
        specs["g"] = specs["x"] if outs % 8 == 0 else specs["g"]
    if dice.chance(0.5):
        specs["w"] = ((),) * (n + 2)
    mesh = {"shape": shape, "explicit": dice.chance(0.15), "specs": specs}
    if mesh["explicit"]:
        specs["w"] = ((),) * (n + 2)
    dtype = dice.pick("float32", "float32", "float32", "bfloat16")
    return Case("sharded", f"conv{n}d_transpose", x, w, dtype=dtype, keywords=given, x64=x64, mesh=mesh)


_DRAWS = {
    "tf": _tf,
    "torch": _torch,
    "onnx": _onnx,
    "lax": _lax,
    "keras": _keras,
    "layers": _layers,
    "sharded": _sharded,
}

# Nothing takes these for what they stand for, whatever the other arguments are.
_NO_NUMBERS = [0, -1, 1.5, "2", True, [1] * 7, [[1, 1]], 2**31, {}, [1.0], ["1"], [0], [-2], object]
_WRONG = {
    "strides stride": [*_NO_NUMBERS, None],
    "dilations rhs_dilation dilation dilation_rate": _NO_NUMBERS,
    "output_padding": [-1, [-1], 1.5, "1", True, [0] * 7, 2**31],
    "padding": [1.5, "FULL", {}, [[1.5, 1]], [(1, "a")], b"SAME", ("SAME", 3)],
    "pads": [-1, [1.5], "SAME", [0] * 9, [-1] * 2],
    "auto_pad": ["SAME", "same_upper", None, 0],
    "groups group feature_group_count": [0, -1, 1.5, "1", True, None, [1]],
    "data_format": ["NWCH", "nwc", 0, "", ["NWC"]],
    "output_shape": [[], [1, 2], [-1] * 3, "shape", [1.5, 2.5, 3.5], {"a": 1}, -1],
    "output_size": [[], [1.5], "3", {"a": 1}, [7] * 9, -1],
    "dimension_numbers": [("NWC", "WIO"), "NWC", ("NNC", "WIO", "NWC"), 3, ("NWC", "WIO", "NXC"), (None, None, None)],
    "transpose_kernel use_consistent_padding": [1, None, "yes"],
    "forward_mode": [1, 0, "yes"],
    "implementation": ["fastest", 1, True],
    "precision": ["best", 7, ("high",)],
    "preferred_element_type": ["int32", "float8", bool, "object"],
    "kernel_shape": [[0], [7] * 9, "3"],
    "name": [1, "", b"n"],
    "nonsense": [1],
}
_KEYWORDS = {
    "tf": "strides dilations padding data_format output_shape groups forward_mode implementation precision preferred_element_type "
    "name",
    "torch": "stride dilation padding output_padding output_size groups forward_mode implementation precision preferred_element_type",
    "onnx": "strides dilations pads output_padding auto_pad group output_shape kernel_shape forward_mode implementation precision "
    "preferred_element_type",
    "lax": "strides rhs_dilation padding dimension_numbers transpose_kernel use_consistent_padding feature_group_count forward_mode "
    "implementation precision preferred_element_type",
    "keras": "strides dilation_rate padding output_padding data_format groups forward_mode implementation precision "
    "preferred_element_type",
}


def _spoiled(dice, case):
    """The case with one thing wrong."""
    case = case._replace(transform="primal" if not case.differentiable else "vjp")
    what = dice.weighed(
        {"keyword": 6, "rank": 1, "channels": 1, "kernel": 0.5, "bias": 1, "dtype": 0.5, "operand": 0.7, "traced": 0.7}
    )
    if what == "keyword":
        name = dice.pick(*_KEYWORDS[case.front].split())
        values = next(values for names, values in _WRONG.items() if name in names.split())
        if case.front in ("tf", "keras") and name == "output_padding":
            values = values[:-1]
        if case.front == "onnx" and name == "strides":
            values = _NO_NUMBERS  # None is an attribute that is not there
        if case.front == "tf" and name == "groups":
            values = [value for value in values if value is not None]
        value = dice.pick(*values)
        if name == "output_shape" and case.front == "onnx" and isinstance(value, list) and len(value) == len(case.x) - 2:
            value = [*value, 1]
        if name == "preferred_element_type" and value == "int32":
            value = "complex64" if case.dtype not in COMPLEX else "float32"
            value = "float8" if case.dtype.startswith("int") else value
        value = repr(value) if value is object or value is bool else value
        return case._replace(keywords=case.keywords | {name: value}, wrong=name)
    axes = list(range(len(case.w)))
    if what == "rank":
        shape = dice.pick(case.w[1:], (1, *case.w))
        return case._replace(w=shape, wrong="rank of the filter")
    if what == "kernel":
        last = 2 if case.front in ("torch", "onnx") else 0
        if case.front == "lax" or len(case.w) == 2:
            what = "channels"
        else:
            return case._replace(w=tuple(0 if axis == last else size for axis, size in enumerate(case.w)), wrong="empty kernel")
    if what == "bias" and case.b is not None:
        return case._replace(b=dice.pick((case.b[0] + 1,), (*case.b, 1), ()), wrong="bias")
    if what == "operand":
        return case._replace(wrong=dice.pick("x is a list", "w is a list", "x is None", "w is a string", "x is boolean"))
    if what == "traced" and (name := dice.pick(*_KEYWORDS[case.front].split()[:2])):
        return case._replace(wrong=f"traced {name}")
    if what == "channels" and case.front != "lax":
        axis = 0 if case.front in ("torch", "onnx") else axes[-1]
        return case._replace(w=tuple(size + 1 if i == axis else size for i, size in enumerate(case.w)), wrong="input channels")
    return case._replace(wrong="dtype of the filter")


def draw(front, seed, index):
    """The case."""
    dice = Dice(seed, FRONTS.index(front), index)
    x64 = index // GROUP % 3 == 2
    case = _DRAWS[front](dice, x64)
    if front in _KEYWORDS and dice.chance(0.08):
        case = _spoiled(dice, case)
    return case
