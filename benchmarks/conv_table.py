"""The table of a convolution's measurements."""

from statistics import median

from benchmarks.conv_cases import PASSES
from benchmarks.conv_contest import GROUPED
from benchmarks.precisions import precisions
from benchmarks.sides import OURS

MISSING = "-"


class ConvTable:
    """A row for each case, in microseconds, ours in each precision of the device against the
    peers' best of any."""

    def __init__(self, device, peers, speed):
        """speed: the device's `limit.Speed`, or None where it could not be measured."""
        self._device = device
        self._peers = peers
        self._speed = speed
        self._precisions = precisions(device)
        self._full = {}

    def head(self):
        """The table's first two lines."""
        several = len(self._precisions) > 1
        columns = ["batch, in, out, size, kernel", "table", "density",
                   *["precision"] * several, *(f"{OURS} {name}" for name in PASSES), OURS,
                   "of full", "of the limit"]
        for peer in self._peers:
            columns += [*(f"{peer} {name}" for name in PASSES), peer, "best setting",
                        f"{OURS} / {peer}", "range", f"{GROUPED}", f"{OURS} / grouped"]
        return f"{_line(columns)}\n{_line(['---'] * len(columns))}"

    def rows(self, case, row):
        """The lines of a case."""
        return "\n".join(self._row(case, row, precision) for precision in self._precisions)

    def ways(self, case, row):
        """What computes ours in a case, a line for each precision."""
        several = len(self._precisions) > 1
        return "\n".join(
            f"{case.shape}, {case.name}, {100 * case.table.density:.3g} %"
            + f", {precision}" * several + ": "
            + "; ".join(f"{name} by {way}" for name, way in row.ways[precision].items())
            for precision in self._precisions)

    def _row(self, case, row, precision):
        ours = row.best(OURS, precision)
        cells = [str(case.shape), case.name, f"{100 * case.table.density:.3g} %",
                 *[precision] * (len(self._precisions) > 1), *_times(ours),
                 self._share_of_full(case, ours, precision),
                 self._share_of_limit(case, ours, precision)]
        for peer in self._peers:
            best = row.best(peer)
            ratios = sorted(row.ratios(ours, peer))
            cells += [*_times(best), best.setting, f"{median(ratios):.2f}",
                      f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]
            grouped = row.best(GROUPED)
            cells += ([MISSING] * 2 if grouped is None else
                      [_time(grouped.median()), f"{median(row.ratios(ours, GROUPED)):.2f}"])
        return _line(cells)

    def _share_of_full(self, case, ours, precision):
        """Our time by that of the full table of the same shape, if that was a row before."""
        key = case.shape, precision
        if case.table.density == 1:
            self._full[key] = ours.median()
        return f"{ours.median() / self._full[key]:.2f}" if key in self._full else MISSING

    def _share_of_limit(self, case, ours, precision):
        if self._speed is None:
            return MISSING
        return f"{case.least_seconds(self._speed, precision) / ours.median():.1%}"


def _times(measurement):
    return [_time(measurement.median(name)) for name in (*PASSES, "sum")]


def _time(seconds):
    return f"{1e6 * seconds:,.{0 if seconds > 1e-4 else 1}f}"


def _line(cells):
    return f"| {' | '.join(cells)} |"
