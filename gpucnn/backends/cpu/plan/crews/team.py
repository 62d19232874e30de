"""One network trained by several processes, which share the groups of every batch.

Each has a step of its own that trains the whole network: it computes the gradients of some groups
into shared memory, waits for the others, adds up those of all groups and updates its own
parameters. All add up alike, so that all have the same bits, those that threads would get.
"""

import os
import pickle
import socket
import weakref
from dataclasses import dataclass
from itertools import chain
from math import prod

import numpy as np

from gpucnn.backends.cpu.plan.crews.board import Board
from gpucnn.backends.cpu.plan.crews.crew import Crew
from gpucnn.backends.cpu.plan.crews.work import Work
from gpucnn.backends.cpu.process import Process, serving
from gpucnn.backends.cpu.threads import one_blas_thread

IMAGE_BYTES = 16 * 1024 * 1024  # of images that are handed over at once
SIDES = 2  # of what is shared: a process may be at the next batch while others end the last


class TeamEnded(Exception):
    """A process of the team has ended, though it should not have."""


@dataclass(frozen=True)
class _Order:
    """What a process is told to train on; the board has the images, the parameters and the
    optimiser's state."""

    images: tuple  # shape and dtype
    labels: np.ndarray
    shifts: np.ndarray | None
    scalars: np.ndarray


class Tickets:
    """The numbers of groups, one pipe for each side: a group is done by the process that reads its
    number. Those of a batch are there before any process has ended the batch before."""

    def __init__(self, groups):
        self._numbers = bytes(range(groups))
        pipes = [os.pipe() for _ in range(SIDES)]
        self.readers, self._writers = zip(*pipes, strict=True)
        for reader in self.readers:
            os.set_blocking(reader, False)
        self.put(0)

    def put(self, side):
        """Put all numbers there again."""
        os.write(self._writers[side], self._numbers)

    def close(self):
        for descriptor in self.readers + self._writers:
            os.close(descriptor)


class Member(Crew):
    """One process's part in a team.

    tickets: a descriptor for each side. peers: a socket to each of the other processes.
    """

    def __init__(self, board, tickets, peers):
        self._board = board
        self._tickets = tickets
        self._peers = peers
        self._side = 0

    @property
    def sums(self):
        return self._board["sums"][self._side]

    @property
    def totals(self):
        return self._board["totals"][self._side]

    def run(self, task, groups):
        while (group := self._next_group()) is not None:
            if group < groups:
                task(0, group)
        self._meet()
        self._side = 1 - self._side

    def _next_group(self):
        try:
            return os.read(self._tickets[self._side], 1)[0]
        except BlockingIOError:
            return None

    def _meet(self):
        """Wait until all have come here."""
        try:
            for peer in self._peers:
                peer.send(b".")
            for peer in self._peers:
                if not peer.recv(1):
                    raise TeamEnded
        except (BrokenPipeError, ConnectionResetError):
            raise TeamEnded from None


class Team(Member):
    """This process's part, the first: it starts the others and hands them their work.

    make: what gives the others a step like the one that trains here, from `program`, arrays of
    their own like `parameters`, `backend` and a number of threads. threads: the crew whose place it
    takes. state: the optimiser's.
    """

    def __init__(self, make, program, parameters, backend, threads, state):
        self.batches = 0  # left of those that have been handed over
        self._parameters = parameters
        self._processes = []
        self._all_tickets = Tickets(len(threads.sums))
        mine, *others = _sockets(threads.threads)
        self._end = weakref.finalize(self, _end, self._processes, mine, self._all_tickets)
        self._starting = list(mine)
        shapes = _shapes(program, parameters, threads, state)
        board = Board(shapes)
        super().__init__(board, self._all_tickets.readers, mine)
        try:
            for sockets in others:
                descriptors = [peer.fileno() for peer in sockets]
                process = Process(__name__, (board.descriptor, *self._tickets, *descriptors))
                self._processes.append(process)
                process.send((make, program, backend, shapes, board.descriptor, self._tickets,
                              descriptors))
        finally:
            board.close()
            for peer in chain.from_iterable(others):
                peer.close()

    def is_ready(self):
        """Whether all processes have come so far that they can be led."""
        while self._starting:
            try:
                if not self._starting[-1].recv(1, socket.MSG_DONTWAIT):
                    raise TeamEnded
            except BlockingIOError:
                return False
            except ConnectionResetError:
                raise TeamEnded from None
            self._starting.pop()
        return True

    def lead(self, work, state):
        """Hand over as many of a `Work`'s first batches as there is memory for."""
        room = len(self._board["images"]) // (work.batch_size * work.images[0].nbytes)
        work = work.part(0, room)
        images = _images(self._board, (len(work.order), *work.images.shape[1:]), work.images.dtype)
        np.take(work.images, work.order, axis=0, out=images)
        np.copyto(self._board["parameters"], self._parameters)
        for name, array in state.items():
            np.copyto(self._board[_of_state(name)], array)
        order = _Order((images.shape, images.dtype), work.labels[work.order], work.shifts,
                       work.scalars)
        try:
            for process in self._processes:
                process.send(order)
        except OSError:
            raise TeamEnded from None
        self.batches = work.batches

    def run(self, task, groups):
        self._all_tickets.put(1 - self._side)
        super().run(task, groups)
        self.batches -= 1

    def end(self):
        """End the other processes; returns their exit codes."""
        self._end()
        return [process.exit_code for process in self._processes]


def _end(processes, peers, tickets):
    for process in processes:
        process.end()
    for peer in peers:
        peer.close()
    tickets.close()


def serve():
    """What a process runs: take part until the first one has ended."""
    with serving() as (incoming, _), one_blas_thread(always=True), np.errstate(all="ignore"):
        make, program, backend, shapes, memory, tickets, sockets = pickle.load(incoming)
        board = Board(shapes, memory)
        first, *others = [socket.socket(fileno=descriptor) for descriptor in sockets]
        parameters, gradients = (np.zeros(*shapes["parameters"]) for _ in range(2))
        step = make(program, parameters, gradients, backend, threads=1)
        state = program.optimizer.state(backend, len(parameters), parameters.dtype)
        member = Member(board, tickets, [first, *others])
        first.send(b".")
        while True:
            order = pickle.load(incoming)
            np.copyto(parameters, board["parameters"])
            for name, array in state.items():
                np.copyto(array, board[_of_state(name)])
            work = Work(_images(board, *order.images), order.labels, np.arange(len(order.labels)),
                        order.shifts, order.scalars, program.batch_size)
            try:
                step.follow(member, work, state)
            except TeamEnded:
                return


def _shapes(program, parameters, threads, state):
    """The arrays of the board: name -> (shape, dtype)."""
    pixels = program.batch_size * prod(program.input_shape)
    shapes = {name: ((SIDES, *array.shape), array.dtype)
              for name, array in (("sums", threads.sums), ("totals", threads.totals))}
    shapes["images"] = (max(IMAGE_BYTES, pixels * parameters.itemsize),), np.dtype(np.uint8)
    for name, array in (("parameters", parameters),
                        *((_of_state(name), array) for name, array in state.items())):
        shapes[name] = array.shape, array.dtype
    return shapes


def _of_state(name):
    return f"state {name}"


def _images(board, shape, dtype):
    """The board's images as an array."""
    return board["images"][:prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def _sockets(size):
    """For each of so many processes, its sockets to the others in order."""
    ends = [[None] * size for _ in range(size)]
    for number in range(size):
        for other in range(number):
            ends[number][other], ends[other][number] = socket.socketpair()
    return [[end for end in row if end is not None] for row in ends]
