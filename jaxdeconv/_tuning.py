"""A table of measured times: the choice that follows from it, what it gained, and its file. `_tune` measures."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import numpy as np

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Contraction, Name, Platform
from jaxdeconv._lowerings._work import Sizes

FORMAT, VERSION = "jaxdeconv tuning", 1
MARGIN = 1.03  # What is estimated to be the fastest is kept, unless it takes more than so many times as long as another one.


class Case(NamedTuple):
    """What is looked up: one contraction on one kind of device."""

    platform: Platform
    device_kind: str
    contraction: Contraction
    sizes: Sizes
    dtype: str

    @property
    def op(self) -> str:
        """The transposed convolution, of which this is a contraction."""
        sizes, geometry = self.sizes, self.sizes.geometry

        def shape(space: tuple[int, ...], channels: int) -> list[int]:
            return [sizes.batch, *space, channels] if geometry.channels_last else [sizes.batch, channels, *space]

        def short(each: tuple[int, ...]) -> str:
            return "x".join(map(str, each))

        text = f"{self.dtype}{shape(sizes.spatial, sizes.in_channels)} -> {shape(sizes.lengths, sizes.out_channels)}"
        text += f", kernel {short(geometry.kernel)}, stride {short(geometry.strides)}"
        text += f", dilation {short(geometry.dilations)}" if max(geometry.dilations, default=1) > 1 else ""
        return text + (f", {geometry.groups} groups" if geometry.groups > 1 else "")


class Measured(NamedTuple):
    """What was found of it. Hashable."""

    estimated: str  # the lowering that would be chosen without
    seconds: tuple[tuple[str, float], ...]  # a call, by lowering
    refused: tuple[tuple[str, str], ...] = ()  # lowerings that are not to be taken, and why

    def chosen(self, able: Iterable[Name]) -> Name | None:
        """The fastest of these; the estimated one if none is faster beyond a margin; None if none of them was measured."""
        measured = dict(self.seconds)
        seconds = {name: measured[name] for name in able if name in measured}
        if not seconds:
            return None
        fastest = min(seconds, key=lambda name: seconds[name])
        return next((name for name in seconds if name == self.estimated and seconds[name] <= MARGIN * seconds[fastest]), fastest)


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """What `tune` measured. `str()` of it is for reading; it is immutable and hashable.

    Use it with `jaxdeconv.defaults(tuning=...)`. `a | b` has what is in either, and of what is in both what b says. `Tuning()` is
    empty.

    entries has for each contraction of each op on a device what was measured: the lowering that is chosen by estimate, the seconds
    that each took, and those that were refused, since their result differs from the others' or they failed, and why. Chosen is the
    fastest one that can compute the contraction, where it runs; the estimated one if it takes at most 1.03 times as long; and what
    is estimated, where there is no entry.

    Examples:
        >>> import jaxdeconv
        >>> print(jaxdeconv.Tuning())
        nothing is measured
    """

    entries: Mapping[Case, Measured] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", MappingProxyType(dict(self.entries)))
        object.__setattr__(self, "_hash", hash(frozenset(self.entries.items())))

    def __hash__(self) -> int:
        found: int = self._hash  # type: ignore[attr-defined]
        return found

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Tuning) and hash(self) == hash(other) and self.entries == other.entries)

    def __reduce__(self) -> tuple[Any, ...]:  # a hash of strings is that of one process
        return Tuning, (dict(self.entries),)

    def __or__(self, other: Tuning) -> Tuning:
        return Tuning({**self.entries, **other.entries}) if isinstance(other, Tuning) else NotImplemented

    def __repr__(self) -> str:
        return f"Tuning(<{len(self.entries)} entries>)"

    def __str__(self) -> str:
        devices = dict.fromkeys((case.platform, case.device_kind) for case in self.entries)
        return "\n".join(line for each in devices for line in self._lines(*each)) or "nothing is measured"

    def _lines(self, platform: str, device_kind: str) -> Iterator[str]:
        """What was gained on one device."""
        here = {case: found for case, found in self.entries.items() if (case.platform, case.device_kind) == (platform, device_kind)}
        rows = [["", "by estimate", "ms", "measured", "ms", "ratio"]]
        totals, changed = [0.0, 0.0], 0
        for case, found in here.items():
            seconds = dict(found.seconds)
            chosen = found.chosen(seconds)
            before, after = seconds.get(found.estimated), seconds.get(chosen or "")
            changed += chosen not in (None, found.estimated)
            ratio = "-"
            if before is not None and after is not None:
                totals, ratio = [totals[0] + before, totals[1] + after], f"{before / after:.2f}x"
            rows.append([case.contraction, found.estimated, milliseconds(before), chosen or "-", milliseconds(after), ratio])
        yield f"{platform}, {device_kind}: {changed} of {len(here)} choices change"
        yield "all together: {} ms by estimate, {} ms as measured".format(*map(milliseconds, totals))
        header, *lines = aligned(rows, "<<><>>")
        yield header
        above = None
        for (case, found), line in zip(here.items(), lines, strict=True):
            if case.op != above:
                yield case.op
            above = case.op
            yield line
            yield from (f"    {name} is not taken: {reason}" for name, reason in found.refused)

    def chosen(self, case: Case, able: Iterable[Name]) -> Name | None:
        """The lowering for a case, one of these; None if the table does not say."""
        found = self.entries.get(case)
        return None if found is None else found.chosen(able)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file of JSON, one entry a line, which `jaxdeconv.load_tuning` reads."""
        rows = sorted(json.dumps(_row(*entry)) for entry in self.entries.items())
        head = json.dumps({"format": FORMAT, "version": VERSION})[:-1]
        Path(path).write_text(head + ', "entries": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")


def digits(value: float) -> str:
    """Three significant ones, without an exponent where the number is large."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def milliseconds(seconds: float | None) -> str:
    """Of seconds; "-" for what is not known."""
    return "-" if seconds is None else digits(1e3 * seconds)


def aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """The rows of a table, each column to the left or to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{text:{side}{width}}" for text, side, width in zip(row, sides, widths, strict=True)) for row in rows)
    return [f"  {line}".rstrip() for line in lines]


class NotATuningError(Exception):
    """What is wrong with a file, as in "it ..."."""


def read(path: str | os.PathLike[str]) -> Tuning:
    """What a file holds.

    Raises:
        OSError: it cannot be read.
        NotATuningError: it is none that `Tuning.save` writes.
    """
    try:
        held = json.loads(Path(path).read_bytes())
    except ValueError as cause:
        raise NotATuningError("holds no JSON") from cause
    if not isinstance(held, dict) or held.get("format") != FORMAT or not isinstance(held.get("entries"), list):
        raise NotATuningError(f"holds JSON of another format than {FORMAT!r}")
    if held.get("version") != VERSION:
        raise NotATuningError(f"is of version {held.get('version')!r}, and this release reads version {VERSION}")
    entries = {}
    for number, row in enumerate(held["entries"]):
        try:
            case, measured = _entry(row)
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as cause:
            raise NotATuningError(f"has an entry, number {number}, that is none") from cause
        entries[case] = measured
    return Tuning(entries)


def _row(case: Case, measured: Measured) -> dict[str, Any]:
    """An entry as JSON has it."""
    row: dict[str, Any] = case._asdict() | dataclasses.asdict(case.sizes.geometry) | case.sizes._asdict()
    del row["sizes"], row["geometry"], row["itemsize"]
    return row | measured._asdict() | {"seconds": dict(measured.seconds), "refused": dict(measured.refused)}


def _entry(row: Any) -> tuple[Case, Measured]:
    """The reverse of `_row`; raises some error for what is no row."""

    def integers(name: str) -> tuple[int, ...]:
        return tuple(map(int, row[name]))

    crops = tuple((int(lo), int(hi)) for lo, hi in row["crops"])
    ends = integers("kernel"), integers("strides"), integers("dilations"), crops
    dtype = np.dtype(row["dtype"])
    geometry = Geometry(*ends, int(row["groups"]), bool(row["channels_last"]))
    channels = int(row["in_channels"]), int(row["out_channels"])
    sizes = Sizes(geometry, int(row["batch"]), integers("spatial"), *channels, dtype.itemsize)
    case = Case(row["platform"], row["device_kind"], row["contraction"], sizes, dtype.name)
    measured = Measured(row["estimated"], tuple(row["seconds"].items()), tuple(row["refused"].items()))
    if len({*map(len, (*ends, sizes.spatial))}) > 1:
        raise ValueError
    if case.contraction not in get_args(Contraction) or not all(0 < seconds < math.inf for _, seconds in measured.seconds):
        raise ValueError
    texts = case.platform, case.device_kind, case.op, measured.estimated, *dict(measured.refused).values()
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    if json.loads(json.dumps(_row(case, measured))) != row:  # something was converted
        raise ValueError
    return case, measured
