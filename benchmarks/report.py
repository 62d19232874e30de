"""What a benchmark prints while it runs, and what it saves."""

import json
from dataclasses import asdict
from statistics import median

from benchmarks.contest import compare
from benchmarks.machine import machine
from benchmarks.sides import OURS


def run(options, tasks, *, what, column):
    """Measure tasks one after the other and print a row for each; returns their comparisons.

    options: those of `options.parser`. what: the heading, as in "training throughput, samples per
    second". column: the name of the first column. Writes `options.out` if it is given.
    """
    here = machine()
    print(_heading(options, here, what), flush=True)
    comparisons = []
    for task in tasks:
        comparisons.append(compare(task, options.peer, seconds=options.seconds,
                                   rounds=options.rounds))
        if len(comparisons) == 1:
            print(_versions(comparisons[0]) + "\n\n" + _table_head(options.peer, column))
        print(_row(comparisons[-1], options.peer), flush=True)
    if options.out is not None:
        _save(options, here, comparisons)
    return comparisons


def _heading(options, here, what):
    lines = [f"{options.model} on {options.device}: {what}; "
             f"medians of {options.rounds} alternating windows of {options.seconds:g} s",
             f"{here['CPU']}, {here['cores']} cores, {here['system']}, Python {here['Python']}"]
    if here["load"] is not None and here["load"] > 0.5:
        lines.append(f"load average {here['load']}: other programs were running")
    return "\n".join(lines)


def _versions(comparison):
    found = {}
    for measurement in comparison.measurements:
        found |= measurement.versions
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _table_head(peers, column):
    columns = [column, OURS]
    for peer in peers:
        columns += [peer, "best setting", f"{OURS} / {peer}", "range"]
    return f"{_line(columns)}\n{_line(['---'] * len(columns))}"


def _row(comparison, peers):
    cells = [f"{comparison.size}", f"{comparison.best(OURS).median:,.0f}"]
    for peer in peers:
        best = comparison.best(peer)
        if best is None:
            cells += ["-"] * 4
            continue
        ratios = sorted(comparison.ratios(peer))
        cells += [f"{best.median:,.0f}", best.setting, _ratio(median(ratios)),
                  f"{_ratio(ratios[0])} to {_ratio(ratios[-1])}"]
    return _line(cells)


def _ratio(value):
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _line(cells):
    return f"| {' | '.join(cells)} |"


def _save(options, here, comparisons):
    record = {"model": options.model, "device": options.device, "seconds": options.seconds,
              "rounds": options.rounds, "machine": here,
              "comparisons": [asdict(comparison) for comparison in comparisons]}
    options.out.write_text(json.dumps(record, indent=1) + "\n")
