"""What each convention says a call gives: its rule for (crop, L) and its layouts, from the frameworks' documentation alone.

`window(case)` is the rule, or raises MeaninglessError. Layouts are arrays of positions: where in the user's array each entry of the
oracle's is.
Nothing here comes from jaxdeconv.
"""

import math
from typing import NamedTuple

import numpy as np

from campaign import oracle


class MeaninglessError(Exception):
    """The call has no meaning in its convention."""


class Window(NamedTuple):
    """A call in the oracle's terms."""

    x: np.ndarray  # [batch, *W, in] of positions in the user's x
    w: np.ndarray  # [*k, out / groups, in] of positions in the user's w
    y: np.ndarray  # [batch, *L, out] of positions in the user's y; one that occurs twice is a sum
    y_shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    crops: tuple[int, ...]
    groups: int
    channel: int  # axis of y that the bias is along

    @property
    def once(self):
        """Whether each entry of x and y is of one term alone, and not a sum, as around a circle."""
        return all(at.size == np.unique(at).size for at in (self.x, self.y))


def require(condition, why):
    """Raises MeaninglessError unless the condition holds."""
    if not condition:
        raise MeaninglessError(why)


def each(value, n, default=1, first=None):
    """One number per dimension, from an int or 1 or n of them; from n + 2 too where first says if channels are."""
    if value is None:
        value = default
    entries = list(value) if isinstance(value, list | tuple) else [value]
    if first is not None and len(entries) == n + 2:
        ends = entries[:2] if first else [entries[0], entries[-1]]
        require(ends == [1, 1], "batch and channels")
        entries = entries[2:] if first else entries[1:-1]
    require(len(entries) in (1, n), "number of entries")
    return tuple(entries * n if len(entries) == 1 else entries)


def positions(shape):
    """The position of each entry of an array of this shape."""
    return np.arange(math.prod(shape)).reshape(shape)


def _place(case, x, w, y_of, channel, strides, dilations, crops, lengths, groups):
    """The window of operands whose layouts x and w are; y_of brings positions in the user's y to the oracle's layout."""
    require(all(length >= 0 for length in lengths), "negative length")
    y_shape, y = y_of((x.shape[0], *lengths, w.shape[-2] * groups))
    require(x.shape[-1] == w.shape[-1], "channels")
    require(case.b is None or math.prod(case.b) == y.shape[-1], "bias")
    return Window(x, w, y, y_shape, strides, dilations, tuple(crops), groups, channel)


def _activations(first):
    """Of an output's layout: its shape and positions from the shape in the oracle's."""

    def y_of(shape):
        if not first:
            return shape, positions(shape)
        user = (shape[0], shape[-1], *shape[1:-1])
        return user, np.moveaxis(positions(user), 1, -1)

    return y_of


def _flip(w, n):
    return np.flip(w, tuple(range(n)))


def _by_outputs(w, groups):
    """[*k, in / groups, out] to [*k, out / groups, in], each group's block transposed."""
    *kernel, inputs, out = w.shape
    require(out % groups == 0, "groups")
    blocks = w.reshape(*kernel, inputs, groups, out // groups)
    return np.moveaxis(blocks, -3, -1).swapaxes(-3, -2).reshape(*kernel, out // groups, groups * inputs)


def _geometry(x, w):
    """(W, k) of each dimension."""
    return list(zip(x.shape[1:-1], w.shape[:-2], strict=True))


# TensorFlow


def tensorflow_window(padding, given, size, k, s, d, pads):
    """(crop, L): the strided convolution of the output must have the input's size."""
    ke = (k - 1) * d + 1
    if padding == "SAME":
        length = size * s if given is None else given
        require(math.ceil(length / s) == size, "length")
        return max((size - 1) * s + ke - length, 0) // 2, length
    require(size > 0, "empty")
    length = (size - 1) * s + max(ke, s) - sum(pads) if given is None else given
    require(length >= 0 and length + sum(pads) >= ke and (length + sum(pads) - ke) // s + 1 == size, "length")
    return pads[0], length


def _tf(case):
    given = case.keywords
    n = len(case.x) - 2
    output_shape, padding = given["output_shape"], given.get("padding", "SAME")
    first = (given.get("data_format") or "N")[:2] == "NC"
    require(len(case.w) == n + 2 and all(case.w[:-1]), "filters")
    x, w = positions(case.x), positions(case.w)
    x = np.moveaxis(x, 1, -1) if first else x
    strides = each(given["strides"], n, first=first)
    dilations = each(given.get("dilations"), n, first=first)
    require(x.shape[-1] == w.shape[-1], "channels")
    lengths, groups = [None] * n, given.get("groups") or 1
    if output_shape is not None:
        require(len(output_shape) == n + 2 and min(output_shape[1:]) >= 0 and output_shape[0] in (-1, x.shape[0]), "output_shape")
        lengths, out = (output_shape[2:], output_shape[1]) if first else (output_shape[1:-1], output_shape[-1])
        require(out > 0 and out % w.shape[-2] == 0 and given.get("groups", out // w.shape[-2]) == out // w.shape[-2], "groups")
        groups = out // w.shape[-2]
    require(groups == 1 or x.shape[-1] % groups == 0, "groups")
    pads = [(0, 0)] * n
    if not isinstance(padding, str):
        pads = padding[2:] if first else padding[1:-1]
    rows = zip(lengths, _geometry(x, w), strides, dilations, pads, strict=True)
    placed = [tensorflow_window(padding, length, size, k, s, d, pad) for length, (size, k), s, d, pad in rows]
    crops, lengths = zip(*placed, strict=True)
    return _place(case, x, w, _activations(first), 1 if first else n + 1, strides, dilations, crops, lengths, groups)


# PyTorch and ONNX


def _in_out_k(case, n):
    """x channels last, and w from [in, out / groups, *k]."""
    x = np.moveaxis(positions(case.x), 1, -1)
    return x, np.moveaxis(positions(case.w), (0, 1), (n + 1, n))


def _torch(case):
    given = case.keywords
    n = int(case.function[-2])
    batched = len(case.x) == n + 2
    require(len(case.w) == n + 2 and all(case.w), "weight")
    x = np.moveaxis(positions(case.x if batched else (1, *case.x)), 1, -1)
    w = np.moveaxis(positions(case.w), (0, 1), (n + 1, n))
    strides, dilations = each(given.get("stride"), n), each(given.get("dilation"), n)
    padding, extra = each(given.get("padding"), n, 0), each(given.get("output_padding"), n, 0)
    groups = given.get("groups", 1)
    require(groups >= 1 and x.shape[-1] % groups == 0 and x.shape[-1] == w.shape[-1], "groups")
    output_size = given.get("output_size")
    require(output_size is None or len(output_size) in (n, len(case.x)), "output_size")
    crops, lengths = [], []
    least = 0 if case.x[0] == 0 else 1
    for i, ((size, k), s, d, p, op) in enumerate(zip(_geometry(x, w), strides, dilations, padding, extra, strict=True)):
        if output_size is not None:
            op = output_size[i - n] - ((size - 1) * s + (k - 1) * d + 1 - 2 * p)
            require(0 <= op < s, "output_size")
        require(op < max(s, d), "output_padding")
        crops.append(p)
        lengths.append((size - 1) * s + (k - 1) * d + 1 - 2 * p + op)
        require(size >= least and lengths[-1] >= least, "empty")
    first = _activations(True)

    def y_of(shape):
        user, y = first(shape)
        return (user if batched else user[1:]), y

    return _place(case, x, w, y_of, 1 if batched else 0, strides, dilations, crops, lengths, groups)


def _onnx(case):
    given = case.keywords
    n = len(case.x) - 2
    auto, output_shape, pads = given.get("auto_pad", "NOTSET"), given.get("output_shape"), given.get("pads")
    require(n >= 1 and len(case.w) == n + 2 and all(case.w[1:]), "W")
    require(pads is None or auto == "NOTSET", "pads")
    for name in ("strides", "dilations", "output_padding", "output_shape", "kernel_shape"):
        require(given.get(name) is None or len(given[name]) == n, name)
    x, w = _in_out_k(case, n)
    strides, dilations = each(given.get("strides"), n), each(given.get("dilations"), n)
    extra, groups = each(given.get("output_padding"), n, 0), given.get("group", 1)
    require(groups >= 1 and x.shape[-1] % groups == 0 and x.shape[-1] == w.shape[-1], "group")
    pads = pads or [0] * (2 * n)
    require(len(pads) == 2 * n and min(pads) >= 0, "pads")
    crops, lengths = [], []
    for i, ((size, k), s, d, op) in enumerate(zip(_geometry(x, w), strides, dilations, extra, strict=True)):
        require(op < max(s, d), "output_padding")
        full = (size - 1) * s + (k - 1) * d + 1 + op
        if output_shape is not None or auto.startswith("SAME"):
            length = size * s if output_shape is None else output_shape[i]
            total = full - length
            crops.append(math.floor(total / 2) if auto == "SAME_UPPER" else math.ceil(total / 2))
        else:
            length = full - pads[i] - pads[n + i]
            crops.append(pads[i])
        lengths.append(length)
    return _place(case, x, w, _activations(True), 1, strides, dilations, crops, lengths, groups)


# lax


def lax_pads(padding, n, effective, strides, consistent):
    """(lo, hi) of each dimension, around the input that is spread by its stride."""
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        require(not consistent and set(strides) <= {1} and padding.upper() in ("SAME", "SAME_LOWER", "VALID"), "padding")
        total = [0 if padding.upper() == "VALID" else ke - 1 for ke in effective]
        return [((t + 1) // 2, t // 2) if padding.upper() == "SAME_LOWER" else (t // 2, (t + 1) // 2) for t in total]
    rows = [padding] * n if isinstance(padding, str) else padding
    require(len(rows) == n, "padding")
    pads = []
    for row, ke, s in zip(rows, effective, strides, strict=True):
        require(not isinstance(row, str) or consistent or isinstance(padding, str), "padding")
        if row == "SAME":  # both sides of ke + s - 2, so that W*s remain
            total = ke + s - 2
            lo = ke - 1 if s > ke - 1 else math.ceil(total / 2)
            pads.append((lo, total - lo))
        elif row == "VALID":
            pads.append((ke - 1, ke - 1 + max(s - ke, 0)))
        else:
            pads.append((ke - 1 - row[0], ke - 1 - row[1]) if consistent else tuple(row))
    return pads


def _lax(case):
    given = case.keywords
    n = len(case.x) - 2
    require(len(case.w) == n + 2, "rank")
    numbers = given.get("dimension_numbers")
    require(numbers is not None or n <= 3, "dimension_numbers")
    # The order of strides and padding is that of the filter's axes.
    letters = "HWD"[:n] if numbers is None else "".join(c for c in numbers[1] if c not in "OI")
    if numbers is None:
        numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    lhs, rhs, out = numbers
    x = positions(case.x).transpose([lhs.index(c) for c in f"N{letters}C"])
    transposed = given.get("transpose_kernel", False)
    groups = given.get("feature_group_count", 1)
    require(groups >= 1, "groups")
    w = positions(case.w).transpose([rhs.index(c) for c in f"{letters}IO"])
    # With transpose_kernel, "I" and "O" are those of the convolution that this transposes: out and in of this.
    w = w if transposed else _flip(_by_outputs(w, groups), n)
    require(all(w.shape[:n]), "rhs")
    require(w.shape[-1] == x.shape[-1] and (groups == 1 or x.shape[-1] % groups == 0), "channels")
    strides, dilations = each(given["strides"], n), each(given.get("rhs_dilation"), n)
    effective = [(k - 1) * d + 1 for k, d in zip(w.shape[:n], dilations, strict=True)]
    pads = lax_pads(given["padding"], n, effective, strides, given.get("use_consistent_padding", False))
    crops, lengths = [], []
    for size, (lo, hi), s, ke in zip(x.shape[1:-1], pads, strides, effective, strict=True):
        spread = (size - 1) * s + 1 if size else 0
        require(spread + lo + hi >= 0, "padding")
        crops.append(ke - 1 - lo)
        lengths.append(max(spread + lo + hi - ke + 1, 0))

    def y_of(shape):
        sizes = dict(zip(f"N{letters}C", shape, strict=True))
        user = tuple(sizes[c] for c in out)
        return user, positions(user).transpose([out.index(c) for c in f"N{letters}C"])

    return _place(case, x, w, y_of, out.index("C"), strides, dilations, crops, lengths, groups)


# Keras


def _keras(case):
    given = case.keywords
    n = len(case.x) - 2
    first = (given.get("data_format") or "channels_last").lower() == "channels_first"
    same = given.get("padding", "valid").lower() == "same"
    require(1 <= n <= 3 and len(case.w) == n + 2 and all(case.w[:-1]), "kernel")
    groups = given.get("groups", 1)
    require(groups >= 1 and case.w[-1] % groups == 0, "groups")
    x, w = positions(case.x), positions(case.w)
    x = np.moveaxis(x, 1, -1) if first else x
    strides, dilations = each(given.get("strides"), n), each(given.get("dilation_rate"), n)
    extra = given.get("output_padding")
    extra = [None] * n if extra is None else each(extra, n)
    crops, lengths = [], []
    for (size, k), s, d, p in zip(_geometry(x, w), strides, dilations, extra, strict=True):
        ke = (k - 1) * d + 1
        full = (size - 1) * s + ke
        if not same:
            crops.append(0)
            lengths.append(full + (max(s - ke, 0) if p is None else p))
        elif p is None:
            crops.append(max(full - size * s, 0) // 2)
            lengths.append(size * s)
        else:
            total = ke + ke % 2 - 2 + p
            crops.append(ke - 1 - min(math.ceil(total / 2), ke - 1))
            lengths.append((size - 1) * s + ke % 2 + p)
    return _place(case, x, w, _activations(first), 1 if first else n + 1, strides, dilations, crops, lengths, groups)


# Layers


def _flax(case):
    given = case.keywords
    n = len(case.w) - 2
    groups, transposed, padding = (
        given.get("feature_group_count", 1),
        given.get("transpose_kernel", False),
        given.get("padding", "SAME"),
    )
    batch, x = case.x[: -n - 1], positions(case.x)
    x = x.reshape(math.prod(batch), *x.shape[len(batch) :])
    w = positions(case.w)
    w = w if transposed else _flip(_by_outputs(w, groups), n)
    strides, dilations = each(given.get("strides"), n), each(given.get("kernel_dilation"), n)
    extra = each(given.get("output_padding"), n, 0)
    effective = [(k - 1) * d + 1 for k, d in zip(w.shape[:n], dilations, strict=True)]
    circular = padding == "CIRCULAR"
    if padding == "CAUSAL":
        require(n == 1, "causal")
        pads = [(effective[0] - 1, strides[0] - 1)]  # the first W*s samples of the full sum
    else:
        if isinstance(padding, int):
            padding = [padding] * n
        rows = padding if isinstance(padding, str) else [(row, row) if isinstance(row, int) else row for row in padding]
        pads = lax_pads("VALID" if circular else rows, n, effective, strides, False)
    require(not (circular and any(extra)), "circular")
    crops, lengths = [], []
    for size, (lo, hi), s, ke, more in zip(x.shape[1:-1], pads, strides, effective, extra, strict=True):
        spread = (size - 1) * s + 1 if size else 0
        require(spread + lo + hi + more >= 0, "padding")
        crops.append(ke - 1 - lo)
        lengths.append(max(spread + lo + hi + more - ke + 1, 0))

    def y_of(shape):
        if not circular:
            user = (*batch, *shape[1:])
            return user, positions(user).reshape(shape)
        periods = [size * s for size, s in zip(x.shape[1:-1], strides, strict=True)]
        require(all(periods), "circular")
        flat = positions((shape[0], *periods, shape[-1]))
        for axis, (length, period) in enumerate(zip(shape[1:-1], periods, strict=True), 1):
            missing = -(length - period) % (2 * period)  # Flax pads to an odd number of periods
            before = missing // 2 if transposed else -(-missing // 2)
            flat = flat.take((np.arange(length) + before) % period, axis)
        return (*batch, *periods, shape[-1]), flat

    window = _place(case, x, w, y_of, 0, strides, dilations, crops, lengths, groups)
    return window._replace(channel=len(window.y_shape) - 1)


def _eqx(case):
    given = case.keywords
    n = len(case.w) - 2
    groups, padding = given.get("groups", 1), given.get("padding", 0)
    x = np.moveaxis(positions((1, *case.x)), 1, -1)
    w = np.moveaxis(positions(case.w), (0, 1), (n + 1, n))  # [*k, in / groups, out]
    w = _flip(_by_outputs(w, groups), n)
    strides, dilations = each(given.get("stride"), n), each(given.get("dilation"), n)
    extra = each(given.get("output_padding"), n, 0)
    if isinstance(padding, int):
        padding = [padding] * n
    crops, lengths = [], []
    for i, ((size, k), s, d, a) in enumerate(zip(_geometry(x, w), strides, dilations, extra, strict=True)):
        ke = (k - 1) * d + 1
        full = (size - 1) * s + ke
        if padding in ("SAME", "SAME_LOWER"):
            total = max(ke - s + a, 0)
            crop, length = (total + 1) // 2 if padding == "SAME_LOWER" else total // 2, size * s - a
        else:
            p, q = (0, 0) if padding == "VALID" else (padding[i], padding[i]) if isinstance(padding[i], int) else padding[i]
            crop, length = p, full - p - q + a
        if given.get("padding_mode") == "CIRCULAR":
            # What lies before the input is its end, in whole samples: as many as reach the window.
            hi = length - full + crop + ke - 1
            require(crop <= ke - 1 and hi >= 0, "circular")
            before, after = (ke - 1 - crop) // s, hi // s
            x = x.take(np.arange(-before, size + after) % size, 1 + i)
            crop += before * s
        else:  # as lax has it, by which Equinox computes: nothing, spread, is of length 0, and no length is below 0
            length += 0 if size else s - 1
            require(length + ke - 1 >= 0, "padding")
            length = max(length, 0)
        crops.append(crop)
        lengths.append(length)
    first = _activations(True)

    def y_of(shape):
        user, y = first(shape)
        return user[1:], y

    return _place(case, x, w, y_of, 0, strides, dilations, crops, lengths, groups)


def _haiku(case):
    given = case.keywords
    n = len(case.w) - 2
    batched = len(case.x) == n + 2
    first = given.get("data_format", "N")[:2] == "NC"
    groups, given_lengths, padding = given.get("groups", 1), given.get("output_shape"), given.get("padding", "SAME")
    x = positions(case.x if batched else (1, *case.x))
    x = np.moveaxis(x, 1, -1) if first else x
    w = _flip(positions(case.w), n)
    strides = each(given.get("stride"), n)
    if given_lengths is not None:
        given_lengths = each(given_lengths, n)
        rows = zip(given_lengths, _geometry(x, w), strides, strict=True)
        placed = [tensorflow_window(padding, length, size, k, s, 1, (0, 0)) for length, (size, k), s in rows]
        crops, lengths = zip(*placed, strict=True)
    else:
        pads = lax_pads(padding, n, w.shape[:n], strides, False)
        crops = [k - 1 - lo for k, (lo, _) in zip(w.shape[:n], pads, strict=True)]
        spreads = [(size - 1) * s + 1 if size else 0 for size, s in zip(x.shape[1:-1], strides, strict=True)]
        rows = list(zip(spreads, w.shape[:n], pads, strict=True))
        require(all(spread + lo + hi >= 0 for spread, _, (lo, hi) in rows), "padding")
        lengths = [max(spread + lo + hi - k + 1, 0) for spread, k, (lo, hi) in rows]
    of = _activations(first)

    def y_of(shape):
        user, y = of(shape)
        return (user if batched else user[1:]), y

    channel = (1 if first else n + 1) - (not batched)
    return _place(case, x, w, y_of, channel, strides, (1,) * n, crops, lengths, groups)


def window(case):
    """The window of a case, or MeaninglessError."""
    rules = {"tf": _tf, "sharded": _tf, "torch": _torch, "onnx": _onnx, "lax": _lax, "keras": _keras}
    layers = {"nnx": _flax, "linen": _flax, "eqx": _eqx, "haiku": _haiku}
    rule = rules[case.front] if case.front in rules else layers[case.function.split(".")[0]]
    return rule(case)


class Sums:
    """y and its derivatives for a window, by the oracle, in the user's layout, of any operands."""

    def __init__(self, window, rounded=None):
        """`rounded` is what happens to T(x, w) before the bias is added."""
        self.window, self.rounded = window, rounded or (lambda y: y)
        self.how = window.strides, window.dilations, window.crops, window.groups

    @staticmethod
    def _back(positions, values, shape):
        flat = np.zeros(math.prod(shape), values.dtype)
        np.add.at(flat, positions.ravel(), values.ravel())
        return flat.reshape(shape)

    def product(self, x, w):
        """T(x, w)."""
        at = self.window
        y = oracle.transpose(x.ravel()[at.x], w.ravel()[at.w], at.y.shape[1:-1], *self.how)
        return self._back(at.y, y, at.y_shape)

    def spread(self, b):
        """The bias in the shape of y."""
        shape = [1] * len(self.window.y_shape)
        shape[self.window.channel] = b.size
        return np.broadcast_to(b.reshape(shape), self.window.y_shape)

    def y(self, x, w, b=None):
        """T(x, w) + b."""
        y = self.product(x, w)
        return y if b is None else self.rounded(y) + self.spread(b)

    def input_grad(self, g, w, shape):
        """C(g, w)."""
        at = self.window
        return self._back(at.x, oracle.input_grad(g.ravel()[at.y], w.ravel()[at.w], at.x.shape[1:-1], *self.how), shape)

    def filter_grad(self, x, g, shape):
        """F(x, g)."""
        at = self.window
        return self._back(at.w, oracle.filter_grad(x.ravel()[at.x], g.ravel()[at.y], at.w.shape[:-2], *self.how), shape)

    def pull(self, operands, g):
        """The cotangents of x, w and perhaps b."""
        x, w, *b = operands
        gradients = [self.input_grad(g, w, x.shape), self.filter_grad(x, g, w.shape)]
        if b:
            axes = tuple(axis for axis in range(g.ndim) if axis != self.window.channel)
            gradients.append(g.sum(axes).reshape(b[0].shape))
        return gradients
