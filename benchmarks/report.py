"""What a benchmark prints while it runs, and what it saves."""

import json
from dataclasses import asdict

from benchmarks.agreement import CHECKED_STEPS
from benchmarks.contest import compare
from benchmarks.machine import machine
from benchmarks.precisions import FLOAT32


def run(options, tasks, *, what, table):
    """Measure tasks one after the other and print a table of them; returns their comparisons.

    options: those of `options.parser`. what: the heading, as in "training throughput, samples per
    second". table: one of `tables`. Writes `options.out` if it is given.
    """
    here = machine()
    print(heading(options, here, f"{what}; medians of {options.rounds} alternating windows of "
                                 f"{options.seconds:g} s"), flush=True)
    comparisons = []
    for task in tasks:
        comparisons.append(compare(task, options.peer, seconds=options.seconds,
                                   rounds=options.rounds))
        if len(comparisons) == 1:
            print(versions_line(one.versions for one in comparisons[0].measurements)
                  + "\n\n" + table.head())
        print(table.rows(comparisons[-1]), flush=True)
    if options.out is not None:
        save(options.out, {
            "model": options.model, "device": options.device, "seconds": options.seconds,
            "rounds": options.rounds, "machine": here,
            "comparisons": [asdict(comparison) for comparison in comparisons]})
    return comparisons


def heading(options, here, what):
    """What is measured, and on what machine."""
    lines = [f"{options.model} on {options.device}: {what}",
             f"{here['CPU']}, {here['cores']} cores, {here['system']}, Python {here['Python']}"]
    if here["load"] is not None and here["load"] > 0.5:
        lines.append(f"load average {here['load']}: other programs were running")
    return "\n".join(lines)


def versions_line(versions):
    """Names and versions of what all sides ran on, each once."""
    found = {}
    for some in versions:
        found |= some
    return ", ".join(f"{name} {version}" for name, version in found.items())


def agreement_line(comparisons):
    """How far apart sides were before they were timed, in each precision."""
    parts = []
    for precision in dict.fromkeys(name for one in comparisons for name in one.agreement):
        losses, parameters = (max(one.agreement[precision][name] for one in comparisons)
                              for name in ("loss_difference", "parameter_difference"))
        parts.append(f"losses differ by {losses:.1g} at most, parameters by {parameters:.1g} "
                     f"(norms)" + (f", {precision}" if precision != FLOAT32 else ""))
    return (f"Before timing, {CHECKED_STEPS} steps from the same initial parameters: "
            + "; ".join(parts))


def save(path, record):
    """Write a record as JSON."""
    path.write_text(json.dumps(record, indent=1) + "\n")
