"""What chips send each other when a layer is sharded: compiled for 4 and 256 TPU chips that are not here, run on none. Needs libtpu.

    python -m benchmarks.sharded [--json PATH]

Chips that are added get as much to do as the others, so a chip should not have to send more. docs/sharding.md has the results.
"""

import argparse
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

import jaxdeconv
import jaxdeconv.lax
from benchmarks import layers
from benchmarks.compare import progress
from benchmarks.compiled import CHIPS, POD, Collective, collectives, devices, estimated_cycles, lower_for
from benchmarks.layers import Layer
from benchmarks.peers import transposed, with_gradients
from benchmarks.tables import digits, table

TOPOLOGIES = {4: CHIPS["v5e"], 256: POD}
_ALL = {layer.name: layer for layer in layers.LAYERS}

LAYERS: dict[str, Layer] = {
    "HiFi-GAN 16/8": _ALL["hifigan.up2.b16"]._replace(batch=8),
    "HiFi-GAN 4/2": _ALL["hifigan.up3.b16"]._replace(batch=8),
    "HiFi-GAN 4/2, one item": _ALL["hifigan.up3.b1"],
    "U-Net 2/2, 2-D": _ALL["unet.up4.b1"],
    "DCGAN 4/2, 2-D": _ALL["dcgan.up4.b16"],
    "DLA 4/2, 2-D depthwise": _ALL["dla.up.b8"],
    "4 groups 4/2": _ALL["grouped.1d.b8"],
    "iSTFT 1024/256": _ALL["istft.b8"]._replace(size=(512,), in_channels=1024, padding=((384, 384),)),
}
"""What each chip has of the batch and of the sequence; the channels are those that 4 chips have together."""


def ways(layer: Layer) -> tuple[str, ...]:
    """How it can be sharded: by what, or over a square of chips by two things."""
    if layer.groups > 1:
        channels: tuple[str, ...] = ("channels",)
    else:
        channels = ("in channels", "out channels") if layer.out_channels % 4 == 0 else ("in channels",)
    return ("batch", "sequence", *channels, "batch x sequence")


class Placed(NamedTuple):
    """A layer over a mesh: what is compiled."""

    layer: Layer  # of all chips
    over: Mesh
    x: jax.P
    w: jax.P
    y: jax.P

    def lower(self, function: Callable[..., jax.Array], mode: str, dtype: str) -> Any:
        """The function, or it and its gradients, to compile."""
        shapes, specs, out_specs = [self.layer.x_shape, self.layer.w_shape], [self.x, self.w], self.y
        if mode == "train":
            function, shapes, specs = with_gradients(function), [*shapes, self.layer.y_shape], [*specs, self.y]
            out_specs = (self.y, self.x, self.w)
        return lower_for(self.over, function, shapes, dtype, specs, out_specs)


def place(layer: Layer, way: str, chips: int) -> Placed:
    """Cut in this way, with a mesh axis for each of its parts; the sequence is the first spatial dimension."""
    parts = tuple(way.split(" x "))
    side = round(chips ** (1 / len(parts)))
    over = Mesh(np.array(devices(TOPOLOGIES[chips])).reshape((side,) * len(parts)), parts, axis_types=(AxisType.Auto,) * len(parts))

    def axis(*names: str) -> str | None:
        return next((part for part in parts if part in names), None)

    batch, sequence, whole = axis("batch"), axis("sequence"), (None,) * (layer.ndim - 1)
    ins, outs = axis("in channels", "channels"), axis("out channels", "channels")
    larger = layer._replace(
        batch=layer.batch * (side if batch else 1),
        size=(layer.size[0] * (side if sequence else 1), *layer.size[1:]),
        in_channels=layer.in_channels * (side if ins else 4) // 4,
        out_channels=layer.out_channels * (side if outs else 4) // 4,
        groups=layer.groups * (side if "channels" in parts else 4) // 4,
    )
    filters = jax.P(None, *whole, outs if layer.groups == 1 else None, ins)
    return Placed(larger, over, jax.P(batch, sequence, *whole, ins), filters, jax.P(batch, sequence, *whole, outs))


def halos(layer: Layer) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many samples of its neighbours a chip needs, (before, after) its own: inputs for y, and outputs for the gradients.

    Output m takes the inputs n with 0 <= m + crop - n*s < ke; input n the outputs n*s - crop, ..., n*s - crop + ke - 1. With L = W*s.
    """
    k, s, d, (lo, hi) = layer.kernel[0], layer.strides[0], layer.dilations[0], layer.padding[0]
    ke = (k - 1) * d + 1
    return (max(0, (ke - 1 - lo) // s), -(-lo // s)), (lo, hi)


@functools.cache
def recipe() -> Callable[..., jax.Array]:
    """The halo exchange as docs/sharding.md has it."""
    text = (Path(__file__).parent.parent / "docs/sharding.md").read_text()
    (code,) = re.findall(r"^```python\n(def with_halos.*?)^```$", text, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {"jax": jax, "jnp": jnp, "jaxdeconv": jaxdeconv}
    exec(code, namespace)
    found: Callable[..., jax.Array] = namespace["with_halos"]
    return found


def by_hand(placed: Placed) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The same in jax.shard_map, of one dimension that is cut: the op on what a chip has and on halos that are sent explicitly."""
    layer = placed.layer

    def local(x: jax.Array, w: jax.Array) -> jax.Array:
        return recipe()(x, w, layer.strides[0], layer.padding[0], "sequence", layer.groups)

    return jax.shard_map(local, mesh=placed.over, in_specs=(placed.x, placed.w), out_specs=placed.y)


def chosen(placed: Placed, dtype: str) -> tuple[str, ...]:
    """The lowerings that a TPU gets, of T, C and F, on this mesh."""
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(placed.over, spec))
        for shape, spec in ((placed.layer.x_shape, placed.x), (placed.layer.w_shape, placed.w))
    ]
    return tuple(names["tpu"] for names in jaxdeconv.explain(transposed(placed.layer), *shapes).lowerings.values())


def summary(found: Sequence[Collective]) -> str:
    """As "2 collective-permute, 1 all-reduce"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(each.kind for each in found).items())) or "nothing"


def sent(found: Sequence[Collective]) -> int:
    """Bytes of the arrays that a chip sends; an all-reduce in a ring sends its array nearly twice."""
    return sum(each.bytes for each in found)


def measure(dtype: str) -> list[dict[str, Any]]:
    """The record: for every layer, way and number of chips, of y and both gradients, what is sent and the estimated cycles."""
    rows = []
    for index, (name, layer) in enumerate(LAYERS.items()):
        for way in ways(layer):
            row: dict[str, Any] = {"layer": name, "sizes": layer._asdict(), "way": way}
            for chips in TOPOLOGIES:
                placed = place(layer, way, chips)
                functions = {"partitioner": transposed(placed.layer)}
                if layer.ndim == 1 and placed.x[1] == "sequence":
                    functions["by hand"] = by_hand(placed)
                row[f"lowerings {chips}"] = ", ".join(chosen(placed, dtype))
                for who, function in functions.items():
                    compiled = placed.lower(function, "train", dtype).compile()
                    found = collectives(compiled)
                    row[f"{who} {chips}"] = {
                        "collectives": [[each.kind, each.dtype, each.shape] for each in found],
                        "bytes": sent(found),
                        "estimated cycles": estimated_cycles(compiled),
                    }
            rows.append(row)
        progress(index, len(LAYERS), name)
    return rows


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The tables of docs/sharding.md."""

    def cells(result: dict[str, Any]) -> list[str]:
        found = [Collective(kind, dtype, tuple(shape)) for kind, dtype, shape in result["collectives"]]
        return [summary(found), digits(result["bytes"] / 1e3)]

    first = [[f"{row['layer']}, {row['way']}", *cells(row["partitioner 4"]), *cells(row["partitioner 256"])] for row in rows]
    second = [
        [
            f"{row['layer']}, {row['way']}",
            *cells(row["partitioner 4"]),
            *cells(row["by hand 4"]),
            digits(row["by hand 4"]["estimated cycles"] / row["partitioner 4"]["estimated cycles"]),
        ]
        for row in rows
        if "by hand 4" in row
    ]
    return "\n\n".join(
        [
            table(["layer, sharded by", "4 chips send", "kB a chip", "256 chips send", "kB a chip"], first),
            table(["layer, sharded by", "the partitioner sends", "kB a chip", "by hand", "kB a chip", "cycles, ratio"], second),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharded", description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there")
    arguments = parser.parse_args()
    rows = measure(arguments.dtype)
    print(report(rows))
    if arguments.json:
        versions = {name: version(name) for name in ("jax", "libtpu")}
        record = {"topologies": TOPOLOGIES, "versions": versions, "dtype": arguments.dtype, "rows": rows}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
