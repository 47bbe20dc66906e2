"""`python -m campaign`: see --help."""

import argparse
import datetime
import importlib.util
import json
import os
import sys
import time

from campaign import oracle
from campaign.case import FRONTS
from campaign.driver import Campaign


def _positive(kind):
    """A number above zero, so that no campaign is one of nothing."""

    def parsed(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return value

    parsed.__name__ = kind.__name__  # which argparse names where it cannot be parsed
    return parsed


def arguments():
    """Those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m campaign",
        description="Random calls of every front-end, against the oracle and every installed framework, without end unless set.",
    )
    parser.add_argument("fronts", nargs="*", metavar="FRONT", help=f"of {', '.join(FRONTS)}; all if none is named")
    parser.add_argument("--cases", type=_positive(int), help="for each front-end")
    parser.add_argument("--seed", type=int, default=int(f"{datetime.date.today():%Y%m%d}"), help="default: today")
    parser.add_argument("--minutes", type=_positive(float), help="begin nothing after these")
    parser.add_argument(
        "--workers", type=_positive(int), default=os.cpu_count(), help="processes at a time; default: the number of cores"
    )
    parser.add_argument("--json", type=argparse.FileType("w"), help="where to write counts and findings")
    given = parser.parse_args()
    if unknown := [front for front in given.fronts if front not in FRONTS]:
        parser.error(f"FRONT must be one of {', '.join(FRONTS)}, got {unknown[0]}")
    if given.seed < 0:
        parser.error(f"--seed must not be negative, got {given.seed}")
    return given


class Progress:
    """A line of standard error, every few seconds, and findings as they come."""

    def __init__(self):
        self.last = 0.0

    def __call__(self, campaign, finding=None):
        """Called after each group, and for each new finding."""
        if finding is not None:
            print(f"\n{finding.front} case {finding.index} of seed {finding.seed}: {finding.kind}\n{finding.code}\n", flush=True)
        if finding is None and time.monotonic() - self.last < 5:
            return
        self.last = time.monotonic()
        seconds = self.last - campaign.begin
        total = sum(campaign.done.values())
        counts = ", ".join(f"{front} {campaign.done[front]}" for front in campaign.fronts)
        rate = f"{total / seconds:.1f} a second, {len(campaign.findings)} findings"
        print(f"{int(seconds // 60):3}:{int(seconds % 60):02} {counts}; {rate}", file=sys.stderr, flush=True)


def summary(campaign):
    """All that was counted, as plain data."""
    peers = {}
    for (front, peer, how), count in sorted(campaign.peers.items()):
        peers.setdefault(front, {}).setdefault(peer, {})[how] = count
    counts = {}
    for (front, name), count in sorted(campaign.counts.items()):
        counts.setdefault(front, {})[name] = count
    return {
        "about": campaign.about,
        "seed": campaign.seed,
        "seconds": round(time.monotonic() - campaign.begin, 1),
        "cases": dict(campaign.done),
        "counts": counts,
        "peers": peers,
        "peer examples": {" ".join(key): text for key, text in campaign.examples.items()},
        "alike": {" | ".join(key): count for key, count in campaign.alike.most_common()},
        "findings": [finding._asdict() for finding in campaign.findings],
    }


def main():
    """Returns the exit status."""
    given = arguments()
    fronts = given.fronts or list(FRONTS)
    if not any(importlib.util.find_spec(name) for name in ("flax", "equinox", "haiku")):
        fronts = [front for front in fronts if front != "layers"]
    oracle.agree(
        [
            ((3,), (4,), (6,), (2,), (1,), (1,), 1),
            ((4,), (2,), (9,), (3,), (2,), (-2,), 2),
            ((2, 3), (3, 2), (4, 9), (2, 1), (1, 3), (5, -1), 2),
            ((2, 1, 2), (2, 3, 1), (3, 3, 5), (2, 2, 3), (1, 2, 1), (0, 1, 7), 1),
            ((0,), (3,), (4,), (2,), (1,), (-1,), 1),
        ]
    )
    print(f"seed {given.seed}, front-ends {', '.join(fronts)}", flush=True)
    deadline = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    campaign = Campaign(fronts, given.seed, given.cases, deadline, given.workers, Progress())
    campaign.run()
    result = summary(campaign)
    if given.json:
        with given.json:
            json.dump(result, given.json, indent=1)
    print(f"\n{result['about']}\n{sum(campaign.done.values())} cases in {result['seconds']} s, {len(campaign.findings)} findings")
    for front, table in result["peers"].items():
        for peer, hows in table.items():
            print(f"  {front}, {peer}: {', '.join(f'{how} {count}' for how, count in hows.items())}")
    for key, text in campaign.examples.items():
        print(f"  {' '.join(key)}: {text[:400]}")
    for (front, kind, text), count in campaign.alike.most_common():
        print(f"  {count} findings of {front}: {kind}: {text}")
    return int(bool(campaign.findings))


if __name__ == "__main__":
    sys.exit(main())
