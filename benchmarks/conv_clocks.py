"""How a process times calls that it makes one after the other: by the wall, or on the device.

On a GPU two events stand around the calls. The host gives work to it more slowly than it is done
where kernels are short, so that the device first waits until all of it has been queued: what is
measured has no gaps, and no time of the host.
"""

import time

MOST_QUEUED = 100  # calls; the queue of a GPU holds about a thousand kernels
WAITED = 1.5       # times as long as queueing took before
CLOCK = 2e9        # cycles of a GPU in a second, at the most


class Calls:
    """Times calls of functions with a clock."""

    def __init__(self, clock):
        self._clock = clock

    def count(self, work, seconds):
        """How many calls fill a window, of work that has been done before; the time of one."""
        once = self._clock(work, 1)
        return max(1, min(self._clock.most, round(seconds / once))), once

    def seconds(self, work, count):
        """Seconds of one of `count` calls."""
        return self._clock(work, count)


class WallClock:
    """Of work that has ended when the call returns; once it is done untimed, since another process
    has had the caches."""

    most = 10**6

    def __call__(self, work, count):
        work()
        start = time.perf_counter()
        for _ in range(count):
            work()
        return (time.perf_counter() - start) / count


class EventClock:
    """Of work on a GPU. `event()` makes a recorded event, `wait(seconds)` keeps the device busy,
    `between(first, last)` waits for the second of two events and gives the seconds between."""

    most = MOST_QUEUED

    def __init__(self, event, wait, between):
        self._event = event
        self._wait = wait
        self._between = between
        self._queueing = {}

    def __call__(self, work, count):
        self._wait(WAITED * count * self._queueing.get(work, 0))
        first = self._event()
        start = time.perf_counter()
        for _ in range(count):
            work()
        self._queueing[work] = (time.perf_counter() - start) / count
        return self._between(first, self._event()) / count


def torch_clock(torch, device):
    """A clock of PyTorch's work on a device."""
    if torch.device(device).type == "cpu":
        return WallClock()

    def event():
        made = torch.cuda.Event(enable_timing=True)
        made.record()
        return made

    def between(first, last):
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    return EventClock(event, lambda seconds: torch.cuda._sleep(int(CLOCK * seconds)), between)


def cupy_clock(backend):
    """A clock of this library's work on a backend's device, on CuPy's current stream."""
    if backend.device == "cpu":
        return WallClock()
    import cupy

    def event():
        made = cupy.cuda.Event()
        made.record()
        return made

    def between(first, last):
        last.synchronize()
        return cupy.cuda.get_elapsed_time(first, last) / 1e3

    return EventClock(event, backend.runtime.wait, between)
