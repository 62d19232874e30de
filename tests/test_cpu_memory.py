"""Memory of the CPU: where arrays begin, blocks that are divided, boards that processes share."""

import os

import numpy as np
import pytest

from gpucnn import get_backend, lenet5
from gpucnn.backends.cpu import memory
from gpucnn.backends.cpu.memory import BLOCK, LARGE_PAGE, LINE, Arena
from gpucnn.backends.cpu.plan.crews.board import Board

SHAPES = [(), 5, np.int64(5), (3,), (2, 3, 5), (0, 4), (1000, 1000)]
each_dtype = pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])


def address(array):
    return array.ctypes.data


def overlap(arrays):
    """Whether any two arrays share memory: writing to each leaves the others as they were."""
    for number, array in enumerate(arrays):
        array.fill(number)
    return any((array != number).any() for number, array in enumerate(arrays))


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_arrays_begin_where_a_cache_line_does(shape, dtype):
    for make in (memory.empty, memory.zeros, get_backend("cpu").empty, get_backend("cpu").zeros):
        array = make(shape, np.dtype(dtype))
        reference = np.empty(shape, dtype)
        assert (array.shape, array.dtype) == (reference.shape, reference.dtype)
        assert array.flags.c_contiguous and array.flags.writeable
        assert array.size == 0 or address(array) % LINE == 0
    assert not memory.zeros(shape, dtype).any()


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_after_a_padded_count_of_numbers_a_cache_line_begins(count):
    assert count <= memory.padded(count) < count + LINE
    for dtype in ("float32", "float64"):
        assert memory.padded(count) * np.dtype(dtype).itemsize % LINE == 0


@each_dtype
def test_an_arena_gives_arrays_apart_on_lines_of_its_blocks(dtype):
    arena = Arena()
    arrays = [arena.empty(shape, dtype) for shape in (
        (3,), (2, 5, 7), (100_001,), (0, 3), (1,), (BLOCK + 1,), (BLOCK // 2,), (BLOCK // 2,))]
    assert all(array.flags.c_contiguous for array in arrays)
    assert all(address(array) % LINE == 0 for array in arrays if array.size)
    assert not overlap(arrays)


def test_a_block_begins_with_a_large_page():
    arena = Arena()
    assert address(arena.empty((BLOCK,), "uint8")) % LARGE_PAGE == 0
    assert address(arena.empty((2 * BLOCK,), "uint8")) % LARGE_PAGE == 0


def test_a_networks_parameters_begin_where_a_cache_line_does():
    network = lenet5(device="cpu")
    assert address(network.parameters.flat) % LINE == address(network.gradients.flat) % LINE == 0


# -- boards --------------------------------------------------------------------------------------

BOARD = {"numbers": ((3, 5), np.dtype(np.float64)), "bytes": ((7,), np.dtype(np.uint8)),
         "none": ((0,), np.dtype(np.float32)), "more": ((2, 2), np.dtype(np.float32))}


@pytest.mark.parametrize("where", ["in memory", "in a file"])
def test_a_board_is_shared_by_all_that_are_given_its_descriptor(where, monkeypatch):
    if where == "in a file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    board = Board(BOARD)
    other = Board(BOARD, os.dup(board.descriptor))
    assert not any(board[name].any() for name in BOARD)
    for number, (name, (shape, dtype)) in enumerate(BOARD.items()):
        assert (board[name].shape, board[name].dtype) == (shape, dtype)
        board[name].fill(number)
        assert np.array_equal(other[name], board[name])
    for one in (board, other):
        one.close()
    other["more"][1, 1] = 9
    assert board["more"].tolist() == [[3, 3], [3, 9]]
    assert not overlap([board[name] for name in BOARD])
