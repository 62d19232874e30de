"""The tables of a benchmark: a row for each comparison, or for each of its precisions."""

from statistics import median

from benchmarks.contest import ratios
from benchmarks.precisions import precisions
from benchmarks.sides import OURS

MISSING = "-"


class Table:
    """A row for each comparison: our throughput, and each peer's with its best setting."""

    def __init__(self, column, peers):
        self._columns = [column, OURS]
        self._peers = peers

    def head(self):
        """The table's first two lines."""
        columns = [*self._columns, *(name for peer in self._peers for name in (
            peer, "best setting", f"{OURS} / {peer}", "range")), *self._last_columns()]
        return f"{_line(columns)}\n{_line(['---'] * len(columns))}"

    def rows(self, comparison):
        """The lines of a comparison."""
        return _line([f"{comparison.size}", _rate(comparison.best(OURS)),
                      *self._peer_cells(comparison)])

    def _last_columns(self):
        return []

    def _peer_cells(self, comparison, precision=None):
        cells = []
        for peer in self._peers:
            best = comparison.best(peer, precision)
            if best is None:
                cells += [MISSING] * 4
                continue
            found = sorted(comparison.ratios(peer, precision))
            cells += [_rate(best), best.setting, _ratio(median(found)),
                      f"{_ratio(found[0])} to {_ratio(found[-1])}"]
        return cells


class PrecisionTable(Table):
    """A row for each precision, in which like is compared with like, with the time of our step and
    its share of the limit; the last columns are the ratios to the best of all peers, in the same
    precision and in any."""

    def __init__(self, peers, device, work, speed):
        """work: batch size -> `limit.Work`; speed: the GPU's `limit.Speed`, or None where it could
        not be measured."""
        super().__init__("batch", peers)
        self._columns = ["batch", "precision", OURS, "us a step", "of the limit"]
        self._precisions = precisions(device)
        self._work = work
        self._speed = speed

    def rows(self, comparison):
        return "\n".join(self._row(comparison, precision) for precision in self._precisions)

    def _last_columns(self):
        return [f"{OURS} / best peer", f"{OURS} / best of any precision"] if self._peers else []

    def _row(self, comparison, precision):
        ours = comparison.best(OURS, precision)
        seconds = comparison.size / ours.median
        cells = [f"{comparison.size}", precision, _rate(ours), f"{1e6 * seconds:,.1f}",
                 self._share_of_limit(comparison.size, seconds, precision),
                 *self._peer_cells(comparison, precision)]
        if self._peers:
            cells += [_median_ratio(ours, comparison.best_peer(chosen))
                      for chosen in (precision, None)]
        return _line(cells)

    def _share_of_limit(self, batch_size, seconds, precision):
        if self._speed is None:
            return MISSING
        return f"{self._work(batch_size).seconds(self._speed, precision) / seconds:.1%}"


class OnlineTable(Table):
    """A row for each number of networks: our updates a second, the time in which each network has
    one, its share of the limit; peers with their best setting of any precision, and the ratio to
    the best of all."""

    def __init__(self, peers, limit):
        """limit: number of networks -> the least time in which each has an update, or None."""
        super().__init__("networks", peers)
        self._columns = ["networks", OURS, "us an update of each", "of the limit"]
        self._limit = limit

    def rows(self, comparison):
        ours = comparison.best(OURS)
        seconds = comparison.size / ours.median
        share = MISSING if self._limit is None else (
            f"{self._limit(comparison.size) / seconds:.1%}")
        cells = [f"{comparison.size}", _rate(ours), f"{1e6 * seconds:,.1f}", share,
                 *self._peer_cells(comparison)]
        return _line(cells + ([_median_ratio(ours, comparison.best_peer())] if self._peers else []))

    def _last_columns(self):
        return [f"{OURS} / best peer"] if self._peers else []


def _median_ratio(ours, theirs):
    return MISSING if theirs is None else _ratio(median(ratios(ours, theirs)))


def _rate(measurement):
    return f"{measurement.median:,.0f}"


def _ratio(value):
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _line(cells):
    return f"| {' | '.join(cells)} |"
