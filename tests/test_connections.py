"""gpucnn.ConnectionTable: ways to make one, what it holds, and what it refuses."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpucnn
from gpucnn import ConnectionTable
from gpucnn.errors import ArgumentError, GpucnnError, TableError

TABLE_I = """\
   0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
0  O  X  X  X  O  O  O  X  X  O  O  O  O  X  O  O
1  O  O  X  X  X  O  O  O  X  X  O  O  O  O  X  O
2  O  O  O  X  X  X  O  O  O  X  X  O  X  O  O  O
3  X  O  O  O  X  X  O  O  O  O  X  X  O  X  O  O
4  X  X  O  O  O  X  X  O  O  O  O  X  O  O  X  O
5  X  X  X  O  O  O  X  X  O  O  O  O  X  O  O  O"""


@st.composite
def matrices(draw):
    """Matrices in which every output map has an input."""
    in_maps, out_maps = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    matrix = np.zeros((in_maps, out_maps), int)
    for out_map in range(out_maps):
        chosen = draw(st.sets(st.integers(0, in_maps - 1), min_size=1))
        matrix[list(chosen), out_map] = 1
    return matrix


# -- ways to make one ------------------------------------------------------------------------------


@given(matrices())
def test_from_matrix_takes_connections_in_the_order_of_nonzero(matrix):
    table = ConnectionTable.from_matrix(matrix)
    np.testing.assert_array_equal(table.pairs, np.nonzero(matrix))
    np.testing.assert_array_equal(table.matrix, matrix != 0)
    assert (table.in_maps, table.out_maps) == matrix.shape


@pytest.mark.parametrize("matrix", [[[1, 0], [1, 1]], [[0.5, 0.0], [-2.0, 1e-30]],
                                    np.array([[True, False], [True, True]]),
                                    np.array([[9, 0], [255, 1]], np.uint8)],
                         ids=["ints", "floats", "bools", "bytes"])
def test_from_matrix_joins_where_a_matrix_of_any_numbers_is_not_zero(matrix):
    assert ConnectionTable.from_matrix(matrix).pairs.tolist() == [[0, 1, 1], [0, 0, 1]]


@given(matrices(), st.randoms(use_true_random=False))
def test_from_pairs_keeps_the_order_of_the_pairs(matrix, random):
    pairs = list(zip(*np.nonzero(matrix), strict=True))
    random.shuffle(pairs)
    table = ConnectionTable.from_pairs(np.array(pairs).T, *matrix.shape)
    assert [tuple(pair) for pair in table.pairs.T] == pairs
    np.testing.assert_array_equal(table.matrix, matrix)


def test_from_pairs_counts_the_maps_that_are_named():
    table = ConnectionTable.from_pairs([[4, 0], [0, 1]])
    assert (table.in_maps, table.out_maps) == (5, 2)
    wider = ConnectionTable.from_pairs([[4, 0], [0, 1]], in_maps=7)
    assert (wider.in_maps, wider.out_maps) == (7, 2)


def test_full_joins_every_pair_output_by_output():
    table = ConnectionTable.full(2, 3)
    assert table.pairs.tolist() == [[0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2]]
    assert table.density == 1


def test_one_to_one_joins_each_map_to_its_own():
    assert ConnectionTable.one_to_one(3).pairs.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_grouped_joins_runs_of_maps():
    np.testing.assert_array_equal(ConnectionTable.grouped(4, 6, 2).matrix,
                                  [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0],
                                   [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    assert ConnectionTable.grouped(3, 5, 1).matrix.all()
    assert ConnectionTable.grouped(4, 4, 4) == ConnectionTable.one_to_one(4)


@given(in_maps=st.integers(1, 9), out_maps=st.integers(1, 9),
       density=st.floats(0.01, 1), seed=st.integers(0, 2**32))
def test_random_keeps_an_input_for_each_output_and_the_density_asked_for(in_maps, out_maps,
                                                                         density, seed):
    table = ConnectionTable.random(in_maps, out_maps, density=density, seed=seed)
    assert (table.in_maps, table.out_maps) == (in_maps, out_maps)
    assert table.fan_in.min() >= 1
    assert table.n_connections == max(out_maps, round(density * in_maps * out_maps))
    assert table == ConnectionTable.random(in_maps, out_maps, density=density, seed=seed)


def test_random_differs_from_seed_to_seed():
    tables = {ConnectionTable.random(8, 8, density=0.5, seed=seed) for seed in range(20)}
    assert len(tables) == 20


def test_lenet5_c3_is_table_i_of_the_paper():
    table = ConnectionTable.lenet5_c3()
    assert str(table) == TABLE_I
    assert table.n_connections == 60
    assert table.fan_in.tolist() == [3] * 6 + [4] * 9 + [6]
    assert table.fan_out.tolist() == [10] * 6


# -- what it holds ---------------------------------------------------------------------------------

UNEVEN = ConnectionTable.from_pairs([[3, 0, 2, 0, 3], [1, 0, 1, 2, 0]], in_maps=5, out_maps=3)


def test_it_counts_connections_of_each_map():
    assert UNEVEN.n_connections == 5
    assert UNEVEN.fan_in.tolist() == [2, 2, 1]
    assert UNEVEN.fan_out.tolist() == [2, 0, 1, 2, 0]
    assert UNEVEN.density == pytest.approx(5 / 15)


def test_its_arrays_are_int32():
    for array in (UNEVEN.pairs, UNEVEN.fan_in, UNEVEN.fan_out, UNEVEN.by_output.starts,
                  UNEVEN.by_output.connections, UNEVEN.by_output.others):
        assert array.dtype == np.int32
    assert UNEVEN.matrix.dtype == bool
    assert UNEVEN.pairs.shape == (2, 5)


@given(matrices(), st.randoms(use_true_random=False))
def test_compressed_orders_hold_each_maps_connections_sorted_by_the_other_map(matrix, random):
    pairs = list(zip(*np.nonzero(matrix), strict=True))
    random.shuffle(pairs)
    table = ConnectionTable.from_pairs(np.array(pairs).T, *matrix.shape)
    for order, side, maps in ((table.by_output, 1, table.out_maps),
                              (table.by_input, 0, table.in_maps)):
        assert order.starts.tolist()[0] == 0
        assert order.starts.tolist()[-1] == table.n_connections
        assert sorted(order.connections.tolist()) == list(range(table.n_connections))
        for number in range(maps):
            mine = slice(order.starts[number], order.starts[number + 1])
            assert (table.pairs[side, order.connections[mine]] == number).all()
            np.testing.assert_array_equal(order.others[mine],
                                          table.pairs[1 - side, order.connections[mine]])
            assert (np.diff(order.others[mine]) > 0).all()


def test_it_prints_a_grid_with_a_row_for_each_input_map():
    assert str(ConnectionTable.from_matrix([[1, 0, 1], [0, 1, 1]])) == "  0 1 2\n0 O X O\n1 X O O"
    rows = str(ConnectionTable.one_to_one(12)).split("\n")
    assert len({len(row) for row in rows}) == 1
    assert rows[0].split() == [str(number) for number in range(12)]
    assert rows[11].split() == ["10", *"XXXXXXXXXXOX"]


def test_its_repr_tells_its_size():
    assert repr(ConnectionTable.lenet5_c3()) == (
        "<ConnectionTable: 6 to 16 maps, 60 connections, density 62.5 %>")


# -- a value ---------------------------------------------------------------------------------------


def test_tables_are_equal_if_their_maps_and_pairs_are_in_the_same_order():
    pairs = [[0, 1], [0, 1]]
    assert ConnectionTable.from_pairs(pairs) == ConnectionTable.one_to_one(2)
    assert ConnectionTable.from_pairs([[1, 0], [1, 0]]) != ConnectionTable.one_to_one(2)
    assert ConnectionTable.from_pairs(pairs, in_maps=3) != ConnectionTable.one_to_one(2)
    assert ConnectionTable.one_to_one(2) != "O X"


def test_equal_tables_have_equal_hashes():
    full = ConnectionTable.grouped(3, 4, 1)
    assert hash(full) == hash(ConnectionTable.from_matrix(np.ones((3, 4))))
    assert len({full, ConnectionTable.from_matrix(np.ones((3, 4))),
                ConnectionTable.full(4, 3)}) == 2


def test_it_cannot_be_changed():
    table = ConnectionTable.lenet5_c3()
    for array in (table.pairs, table.matrix, table.fan_in, table.fan_out, table.by_output.starts,
                  table.by_output.connections, table.by_input.others):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    for name in ("pairs", "in_maps", "out_maps", "n_connections", "density"):
        with pytest.raises(AttributeError):
            setattr(table, name, 1)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_it_is_not_changed_by_changes_of_the_array_that_it_was_made_of(dtype):
    pairs = np.array([[0, 1], [0, 1]], dtype)
    table = ConnectionTable.from_pairs(pairs)
    pairs[:] = 0
    assert table.pairs.tolist() == [[0, 1], [0, 1]]
    assert pairs.flags.writeable


def test_it_is_part_of_the_package():
    assert "ConnectionTable" in gpucnn.__all__


# -- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ConnectionTable.from_pairs([[0, 1, 0], [0, 1, 0]]),
     "connection 2: expected distinct pairs, got (input 0, output 0) a second time"),
    (lambda: ConnectionTable.from_pairs([[0, -1], [0, 1]]), "got -1"),
    (lambda: ConnectionTable.from_pairs([[0, 3], [0, 1]], in_maps=3),
     "connection 1: expected an input map of 0 to 2, got 3"),
    (lambda: ConnectionTable.from_pairs([[0, 1], [0, 2]], out_maps=2),
     "connection 1: expected an output map of 0 to 1, got 2"),
    (lambda: ConnectionTable.from_pairs([[0, 1], [0, 2]]),
     "output map 1: expected at least one input map, got none"),
    (lambda: ConnectionTable.from_pairs([[0], [0]], out_maps=3), "output map 1: expected at least"),
    (lambda: ConnectionTable.from_matrix([[1, 0], [1, 0]]),
     "output map 1: expected at least one input map, got none"),
    (lambda: ConnectionTable.from_pairs([[0.0], [0.0]]), "expected integers, got float64"),
    (lambda: ConnectionTable.from_pairs([[True], [True]]), "expected integers, got bool"),
    (lambda: ConnectionTable.from_pairs([[2**31], [0]]), "got 2147483648"),
    (lambda: ConnectionTable.from_pairs(np.array([[2**63], [0]], np.uint64)),
     "got 9223372036854775808"),
    (lambda: ConnectionTable.from_pairs([0, 1]), "expected shape (2, n_connections)"),
    (lambda: ConnectionTable.from_pairs([[0, 1, 2]]), "got (1, 3)"),
    (lambda: ConnectionTable.from_pairs(np.zeros((2, 0), int)), "at least one connection"),
    (lambda: ConnectionTable.from_pairs([[[0]], [[0]]]), "got (2, 1, 1)"),
    (lambda: ConnectionTable.from_matrix([1, 0]), "expected shape (in_maps, out_maps), got (2,)"),
    (lambda: ConnectionTable.from_matrix(np.ones((2, 0))), "got (2, 0)"),
    (lambda: ConnectionTable.from_matrix(np.ones((2, 2, 2))), "got (2, 2, 2)"),
    (lambda: ConnectionTable.from_matrix([["O", "X"]]), "expected finite numbers or bools"),
    (lambda: ConnectionTable.from_matrix([[1, np.nan]]), "with NaN or infinity"),
])
def test_a_malformed_table_is_refused_with_what_is_wrong_with_it(make, message):
    with pytest.raises(TableError) as caught:
        make()
    assert message in str(caught.value)
    assert isinstance(caught.value, (GpucnnError, ValueError))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ConnectionTable.full(0, 3), "in_maps: expected at least 1, got 0"),
    (lambda: ConnectionTable.full(2, 1.5), "out_maps: expected an int, got 1.5"),
    (lambda: ConnectionTable.one_to_one(-1), "maps: expected at least 1, got -1"),
    (lambda: ConnectionTable.grouped(4, 6, 3),
     "expected groups that divide 4 input and 6 output maps, got 3"),
    (lambda: ConnectionTable.grouped(4, 6, 0), "groups: expected at least 1, got 0"),
    (lambda: ConnectionTable.random(4, 6, density=0, seed=1), "a density in (0, 1], got 0"),
    (lambda: ConnectionTable.random(4, 6, density=1.5, seed=1), "got 1.5"),
    (lambda: ConnectionTable.random(4, 6, density=float("nan"), seed=1), "got nan"),
    (lambda: ConnectionTable.random(4, 6, density="half", seed=1), "got 'half'"),
    (lambda: ConnectionTable.random(4, 6, density=0.5, seed=-1), "seed: expected at least 0"),
    (lambda: ConnectionTable.random(4, 6, density=0.5, seed=None), "seed: expected an int"),
    (lambda: ConnectionTable.from_pairs([[0], [0]], in_maps=0), "in_maps: expected at least 1"),
])
def test_a_wrong_argument_is_refused_by_name(make, message):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert message in str(caught.value)


def test_a_pickled_table_is_the_same_table_elsewhere():
    table = ConnectionTable.lenet5_c3()
    copy = pickle.loads(pickle.dumps(table))
    assert copy == table and hash(copy) == hash(table) and "_hash" not in vars(
        pickle.loads(pickle.dumps(table)))
    with pytest.raises(ValueError, match="read-only"):
        copy.pairs[0, 0] = 1
