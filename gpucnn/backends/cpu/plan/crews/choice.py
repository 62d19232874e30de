"""When threads work on a network's batches, and when processes do."""

import os
import warnings
from contextlib import contextmanager

from gpucnn.backends.cpu.plan.crews.team import Team, TeamEnded
from gpucnn.backends.cpu.process import can_start

# Processes are started when this much work has come: one takes half as long to start, during which
# the threads go on.
SECONDS_ALONE = 1.0
LEAST_BATCHES = 16  # that are worth handing over
# Estimates, to tell a moment from more than that, of LeNet-5 on an AMD EPYC.
SECONDS_A_BATCH, SECONDS_A_MULTIPLY_ADD = 1e-4, 3e-10


def seconds_to_train(program, samples):
    """An estimate of the seconds one thread takes to train a network on so many samples."""
    batches = -(-samples // program.batch_size)
    work = samples * sum(layer.multiply_adds for layer in program.layers)
    return batches * SECONDS_A_BATCH + work * SECONDS_A_MULTIPLY_ADD


class Crews:
    """The crews of one `CpuStep`: its threads, and as many processes once that pays.

    Python lets one thread at a time run between NumPy's calls, and the calls of a small network are
    short; processes do not wait for one another but once a batch.
    """

    def __init__(self, make, program, parameters, backend, threads):
        """make, program, parameters, backend: as a `Team` takes them."""
        self.threads = threads
        self._spec = make, program, parameters, backend
        self._seconds_a_batch = seconds_to_train(program, program.batch_size)
        self._seconds = 0.0
        self._team = self._owner = None
        self._may_start = threads.threads > 1 and os.name == "posix" and can_start()

    @property
    def processes(self):
        """How many processes work, or will once training has lasted `SECONDS_ALONE`."""
        return self.threads.threads if self._may_start or self._team else 1

    @contextmanager
    def at_work(self):
        """A context for the batches of one call: if it ends early, so does the team."""
        try:
            yield
        except BaseException:
            self._end()
            raise

    def next(self, work, number, state):
        """The crew for a batch of a `Work`; `state` is the optimiser's before it."""
        if self._team is not None:
            if self._team.batches:
                return self._team
            if self._owner != os.getpid():  # forked since: the team is the other's
                self._end()
        left = work.batches - number
        if left < LEAST_BATCHES or self.processes == 1:
            return self.threads
        try:
            if self._team is None:
                if self._seconds > SECONDS_ALONE:
                    self._team = Team(*self._spec, self.threads, state)
                    self._owner = os.getpid()
            elif self._team.is_ready():
                self._team.lead(work.part(number, work.batches), state)
                return self._team
        except (TeamEnded, OSError) as error:
            self.lose_team(error)
        self._seconds += self._seconds_a_batch
        return self.threads

    def lose_team(self, error):
        """A process of the team has ended, or could not start: threads go on, with a warning."""
        codes = self._end()
        what = f"the end of one (exit codes {codes})" if codes else f"{error}"
        warnings.warn(f"cpu: expected {self.threads.threads} processes to train together, got "
                      f"{what}; threads go on, to the same result but not as fast",
                      RuntimeWarning, stacklevel=2)
        self._may_start = False

    def _end(self):
        """End the team; the exit codes of its processes."""
        team, self._team = self._team, None
        return [] if team is None else team.end()
