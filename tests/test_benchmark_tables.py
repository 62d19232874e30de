"""The tables of the benchmarks, and the limit of a training step, on made-up measurements."""

import pytest

from benchmarks import lenet, limit, peers_torch, report
from benchmarks.contest import Comparison, Measurement
from benchmarks.limit import Speed, SpeedMeter, Work, training_work
from benchmarks.options import parser
from benchmarks.sides import BenchmarkError
from benchmarks.tables import PrecisionTable, Table
from gpucnn import Conv2d, Dense, Flatten, Network, lenet5

SPEED = Speed({"float32": 1e12, "tf32": 4e12}, 1e12)


def measured(side, setting, precision, *rates):
    return Measurement(side, setting, rates, {}, precision)


COMPARISON = Comparison(100, (
    measured("gpucnn", "float32", "float32", 1e6, 2e6, 3e6),
    measured("gpucnn", "tf32", "tf32", 4e6, 4e6, 4e6),
    measured("torch", "eager, float32", "float32", 1e5, 1e5, 1e5),
    measured("torch", "graph, float32", "float32", 5e5, 4e5, 5e5),
    measured("torch", "graph, tf32", "tf32", 1e6, 1e6, 1e6),
    measured("jax", "scan, float32", "float32", 8e5, 8e5, 8e5),
    measured("jax", "scan, tf32", "tf32", 9e5, 9e5, 9e5)), {})


def cells(line):
    return line.strip("| ").split(" | ")


# -- like with like ----------------------------------------------------------------------------


def test_each_precision_has_a_best_setting_of_a_side_and_of_all_peers():
    assert COMPARISON.best("torch", "float32").setting == "graph, float32"
    assert COMPARISON.best("torch").setting == "graph, tf32"
    assert COMPARISON.best_peer("float32").side == "jax"
    assert COMPARISON.best_peer("tf32").side == COMPARISON.best_peer().side == "torch"
    assert COMPARISON.ratios("torch", "float32") == [2, 5, 6]
    assert COMPARISON.ratios("torch", "tf32") == [4, 4, 4]


def test_a_row_compares_a_precision_with_itself_and_with_the_best_of_any():
    table = PrecisionTable(["torch", "jax"], "cuda", lambda size: Work(10**6 * size, 10**3), SPEED)
    head = cells(table.head().splitlines()[0])
    float32, tf32 = (dict(zip(head, cells(line), strict=True))
                     for line in table.rows(COMPARISON).splitlines())
    assert float32["batch"] == tf32["batch"] == "100"
    assert (float32["precision"], tf32["precision"]) == ("float32", "tf32")
    assert (float32["gpucnn"], tf32["gpucnn"]) == ("2,000,000", "4,000,000")
    assert (float32["us a step"], tf32["us a step"]) == ("50.0", "25.0")
    assert float32["gpucnn / torch"] == "5.00" and tf32["gpucnn / torch"] == "4.00"
    assert float32["gpucnn / jax"] == "2.50"
    assert float32["gpucnn / best peer"] == "2.50" and tf32["gpucnn / best peer"] == "4.00"
    assert float32["gpucnn / best of any precision"] == "2.00"
    assert tf32["gpucnn / best of any precision"] == "4.00"


def test_the_share_of_the_limit_is_by_the_speed_of_a_precision():
    table = PrecisionTable([], "cuda", lambda size: Work(10**5 * size, 10**3), SPEED)
    assert [cells(row)[4] for row in table.rows(COMPARISON).splitlines()] == ["20.0%", "10.0%"]


def test_without_a_measured_speed_there_is_no_share_of_the_limit():
    table = PrecisionTable([], "cuda", lambda size: Work(1, 1), None)
    assert {cells(row)[4] for row in table.rows(COMPARISON).splitlines()} == {"-"}


def test_a_peer_without_a_setting_of_a_precision_has_no_cells_there():
    comparison = Comparison(1, (*COMPARISON.measurements[:2], COMPARISON.measurements[2]), {})
    table = PrecisionTable(["torch"], "cuda", lambda size: Work(1, 1), SPEED)
    _, tf32 = (cells(line) for line in table.rows(comparison).splitlines())
    assert tf32[5:10] == ["-"] * 5 and tf32[10] == "40.00"


def test_on_a_cpu_there_is_one_row_and_no_limit():
    options = parser("benchmarks.lenet", "", ("torch", "jax")).parse_args(["--peer", "torch"])
    table = lenet._table(options)
    assert type(table) is Table
    assert table.rows(Comparison(100, COMPARISON.measurements[:1], {})) == (
        "| 100 | 2,000,000 | - | - | - | - |")


def test_a_gpu_whose_speed_cannot_be_measured_is_told_about(monkeypatch, capsys):
    def fail(device):
        raise BenchmarkError("peer torch: expected PyTorch")

    monkeypatch.setattr(limit, "measured_speed", fail)
    options = parser("benchmarks.lenet", "", ("torch", "jax")).parse_args(["--device", "cuda"])
    assert isinstance(lenet._table(options), PrecisionTable)
    assert "limits: not measured: peer torch: expected PyTorch" in capsys.readouterr().out


def test_the_differences_of_each_precision_are_told_apart():
    found = [Comparison(size, (), {
        "float32": {"loss_difference": size * 1e-7, "parameter_difference": 1e-5},
        "tf32": {"loss_difference": 3e-4, "parameter_difference": size * 1e-3}})
        for size in (1, 2)]
    text = report.agreement_line(found)
    assert "losses differ by 2e-07 at most, parameters by 1e-05 (norms); " in text
    assert "losses differ by 0.0003 at most, parameters by 0.002 (norms), tf32" in text


# -- the limit ---------------------------------------------------------------------------------


def test_the_work_of_a_step_is_counted_by_hand():
    network = Network([Conv2d(1, 2, 3, activation="tanh"), Flatten(),
                       Dense(8, 3, activation="identity")], (1, 4, 4), device="cpu")
    convolution, dense = 2 * 9 * 4, 8 * 3
    work = training_work(network, (1, 4, 4), batch_size=10)
    assert work.multiply_adds == 10 * (2 * convolution + 3 * dense)
    parameters = 2 * 9 + 2 + 8 * 3 + 3
    assert work.bytes == 10 * (16 + 4 + 4) + 4 * 4 * parameters


def test_a_sample_of_lenet5_takes_less_than_a_million_multiply_adds():
    assert training_work(lenet5(device="cpu"), (1, 28, 28), 1).multiply_adds == 880_872


def test_the_limit_is_the_longer_of_computing_and_moving():
    assert Work(2 * 10**12, 10**12).seconds(SPEED, "float32") == 2
    assert Work(2 * 10**12, 10**12).seconds(SPEED, "tf32") == 1


def test_speeds_are_printed_in_the_units_of_data_sheets():
    assert str(Speed({"float32": 25.75e12, "tf32": 206e12}, 3e12)) == (
        "products of matrices 51.5 TFLOP/s in float32, 412 TFLOP/s in tf32; copy 3 TB/s")


def test_the_meter_measures_each_precision_of_a_device():
    pytest.importorskip("torch")
    speed = SpeedMeter("cpu", matrix_size=32, copied_bytes=1000).speed()
    assert list(speed.multiply_adds) == ["float32"] and speed.multiply_adds["float32"] > 0
    assert speed.bytes > 0


def test_a_gpu_that_is_not_there_is_an_error_of_the_meter():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this PyTorch has a GPU")
    with pytest.raises(BenchmarkError, match="expected a PyTorch with CUDA"):
        SpeedMeter("cuda")
    with pytest.raises(BenchmarkError, match="expected a PyTorch with CUDA"):
        peers_torch.Trainer(lenet.Task("lenet5", 1, "cuda"), way="graph")
