"""benchmarks.conv: its run, its rows and columns, its clocks, and what cannot be measured."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import conv, conv_cases, conv_contest, conv_ours, conv_plot, conv_torch, limit
from benchmarks.conv_cases import Case, Shape, cases
from benchmarks.conv_clocks import Calls, EventClock, WallClock
from benchmarks.conv_contest import GROUPED, ConvMeasurement, Row
from benchmarks.conv_table import ConvTable
from benchmarks.limit import Speed
from benchmarks.sides import BenchmarkError
from gpucnn import ConnectionTable
from tests.oracle import relative_error

pytestmark = pytest.mark.thorough  # trains with other libraries

SMALL = Shape(2, 32, 32, 6, 3)


# -- the whole run -----------------------------------------------------------------------------


def test_it_prints_a_row_for_each_table_with_the_ratio_to_its_peer(tmp_path, monkeypatch, capsys):
    for package in ("torch", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(conv, "CPU_MATRIX_SIZE", 32)
    monkeypatch.setattr(conv, "CPU_COPIED_BYTES", 1000)
    monkeypatch.setattr(conv_ours, "settings", lambda device, cores: {"one": {"threads": 1}})
    monkeypatch.setattr(conv_torch, "settings", lambda device, cores: {"one": {"threads": 1}})
    out, plot = tmp_path / "measured.json", tmp_path / "measured.png"
    assert conv.main(["--shape", "2,32,32,6,3", "--shape", "2,6,16,7,5", "--density", "100,10",
                      "--groups", "4", "--seconds", "0.001", "--rounds", "2", "--out", str(out),
                      "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"cores.*Python", text)
    assert re.search(r"gpucnn \d.*NumPy \d.*PyTorch \d", text)
    assert re.search(r"limits: .*TFLOP/s in float32", text)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| 2")]
    assert [row[:3] for row in rows] == [
        ["2, 32, 32, 6, 3", "full", "100 %"], ["2, 32, 32, 6, 3", "random", "9.96 %"],
        ["2, 32, 32, 6, 3", "4 groups", "25 %"], ["2, 32, 32, 6, 3", "one to one", "3.12 %"],
        ["2, 6, 16, 7, 5", "Table I", "62.5 %"]]
    head = next(line for line in text.splitlines() if "best setting" in line)
    place = head.strip("| ").split(" | ").index("gpucnn / grouped")
    assert [row[place] != "-" for row in rows] == [False, False, True, True, False]
    assert "outputs and gradients differed by" in text
    assert re.search(r"^2, 6, 16, 7, 5, Table I, 62.5 %: forward by [\w ,]+; grad_input",
                     text, re.MULTILINE)
    saved = json.loads(out.read_text())["rows"]
    assert [row["table"] for row in saved] == [row[1] for row in rows]
    assert {one["side"] for one in saved[2]["measurements"]} == {"gpucnn", "torch", GROUPED}
    assert all(len(one["rounds"]) == 2 for row in saved for one in row["measurements"])
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--shape", "2,3,4"], "expected batch,in_maps,out_maps,size,kernel.*got '2,3,4'"),
    (["--shape", "2,3,4,5,6"], "expected a kernel no larger than the maps"),
    (["--density", "50,0"], "expected per cents above 0 and up to 100.*got '50,0'"),
    (["--density", "half"], "expected per cents above 0 and up to 100.*got 'half'"),
    (["--groups", "0"], "expected whole numbers of at least 1.*got '0'"),
    (["--peer", "jax"], "expected some of torch.*got 'jax'"),
    (["--model", "lenet5"], "unrecognized arguments: --model"),
])
def test_a_wrong_option_is_an_error_that_says_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        conv.main(arguments)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_failed_run_ends_with_its_message_and_status_1(monkeypatch, capsys):
    def fail(device, peers):
        raise BenchmarkError("peer torch: expected PyTorch")

    monkeypatch.setattr(conv, "_speed", lambda device: None)
    monkeypatch.setattr(conv, "Contest", fail)
    assert conv.main([]) == 1
    assert capsys.readouterr().err == "benchmarks.conv: peer torch: expected PyTorch\n"


def test_a_device_whose_speed_cannot_be_measured_is_told_about(monkeypatch, capsys):
    def fail(device):
        raise BenchmarkError("peer torch: expected PyTorch")

    monkeypatch.setattr(limit, "measured_speed", fail)
    assert conv._speed("cuda") is None
    assert "limits: not measured: peer torch: expected PyTorch" in capsys.readouterr().out


# -- rows ------------------------------------------------------------------------------------------


def test_small_shapes_have_the_table_that_lenet5_has_there():
    assert [(case.name, case.table) for case in cases(Shape(4, 6, 16, 14, 5), (100, 50), (2,))] == [
        ("Table I", ConnectionTable.lenet5_c3())]
    assert [case.table for case in cases(Shape(4, 1, 6, 32, 5), (50,), (2,))] == [
        ConnectionTable.full(1, 6)]


def test_large_shapes_have_random_and_grouped_tables_of_what_divides_them():
    found = cases(Shape(1, 32, 48, 6, 3), (100, 6.25), (5, 16))
    assert [(case.name, case.groups) for case in found] == [
        ("full", 1), ("random", 1), ("16 groups", 16)]
    assert found[1].table.n_connections == 96
    assert [case.name for case in cases(SMALL, (100,), ())] == ["full"]


def test_a_density_that_leaves_an_output_map_alone_still_has_a_table():
    assert cases(SMALL, (0.1,), ())[0].table.fan_in.min() == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_default_shapes_have_rows(device):
    for text in conv_cases.SHAPES[device]:
        assert cases(Shape.parse(text), conv_cases.DENSITIES, conv_cases.GROUPS)


def test_the_work_of_a_pass_is_counted_by_hand():
    case = Case(Shape(10, 2, 3, 4, 3), "", ConnectionTable.from_pairs([[0, 1, 1], [0, 1, 2]]))
    work = case.work()["forward"]
    assert work.multiply_adds == 10 * 3 * 9 * 4
    assert work.bytes == 4 * (10 * 2 * 16 + 3 * 9 + 10 * 3 * 4)
    speed = Speed({"float32": 1080.0}, 1e12)
    assert case.least_seconds(speed, "float32") == pytest.approx(3)
    assert case.least_seconds(Speed({"float32": 1e12}, work.bytes), "float32") == pytest.approx(3)


# -- sides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*cases(SMALL, (100, 20), (4,)),
                                  *cases(Shape(3, 6, 16, 9, 5), (100,), ())],
                         ids=lambda case: case.name)
def test_all_settings_of_both_sides_compute_the_same_numbers(case):
    pytest.importorskip("torch")
    reference = None
    parts = [(conv_ours, ()), (conv_torch, ())] + [(conv_torch, (True,))] * (case.groups > 1)
    for module, grouped in parts:
        for keywords in module.settings("cpu", cores=1).values():
            worker = module.Worker("cpu", **keywords)
            worker.load(case, *grouped)
            results = worker.results()
            reference = reference or results
            for name, array in results.items():
                assert relative_error(array, reference[name]) < 1e-5, name
            assert set(module.seconds(worker.measure(dict.fromkeys(worker.count(1e-4), 1)))) == {
                *conv_cases.PASSES, "sum"}


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_our_side_tells_the_kernels_that_compute_a_case_on_a_gpu(cuda_on_cpu, precision,
                                                                 monkeypatch):
    monkeypatch.setattr(conv_ours, "get_backend", lambda device: cuda_on_cpu)
    monkeypatch.setattr(conv_ours, "cupy_clock", lambda backend: WallClock())
    worker = conv_ours.Worker("cuda", precision=precision)
    case = cases(Shape(2, 6, 16, 7, 5), (100,), ())[0]
    worker.load(case)
    assert list(worker.ways()) == ["forward", "grad_input", "grad_weight"]
    tolerance = 1e-5 if precision == "float32" else 5e-3
    monkeypatch.undo()
    ours = conv_ours.Worker("cpu", threads=1)
    ours.load(case)
    expected = ours.results()
    for name, array in worker.results().items():
        assert relative_error(array, expected[name]) < tolerance, name


def test_settings_are_threads_and_memory_on_a_cpu_and_precisions_on_a_gpu():
    for module in (conv_ours, conv_torch):
        assert {keywords["threads"] for keywords in module.settings("cpu", 8).values()} == {1, 8}
        found = module.settings("cuda", 8)
        assert {keywords["precision"] for keywords in found.values()} == {"float32", "tf32"}


def test_our_gradient_by_the_input_is_what_both_gradients_take_beyond_that_by_the_weights():
    found = conv_ours.seconds({"forward": 1.0, "backward": 5.0, "grad_weight": 3.0})
    assert found == {"forward": 1, "grad_input": 2, "grad_weight": 3, "sum": 6}
    assert conv_torch.seconds({"forward": 1.0, "grad_input": 2.0, "grad_weight": 4.0})["sum"] == 7


def test_results_that_differ_from_ours_are_an_error():
    ours = {"output": np.ones(4)}
    assert conv_contest._difference({"output": np.ones(4) + 1e-6}, ours, "x", 1e-4) < 1e-5
    for other in (1.1, float("nan")):
        with pytest.raises(BenchmarkError, match="torch, 1: output: expected that of gpucnn"):
            conv_contest._difference({"output": np.full(4, other)}, ours, "torch, 1", 1e-4)


def test_a_setting_far_behind_its_side_s_best_of_its_precision_is_not_timed_on():
    def entrant(name, precision, once):
        made = conv_contest._Entrant(name, SimpleNamespace(precision=precision), ())
        made._once = once
        return made

    entrants = [entrant("torch", "float32", 1.0), entrant("torch", "float32", 2.0),
                entrant("torch", "tf32", 3.0), entrant("gpucnn", "float32", 5.0)]
    assert [one.is_worth_it(entrants) for one in entrants] == [True, False, True, True]


# -- the table and the picture ---------------------------------------------------------------------


def measured(side, precision, *sums, setting="as it comes"):
    return ConvMeasurement(side, setting, precision, tuple(
        {"forward": total / 2, "grad_input": total / 4, "grad_weight": total / 4, "sum": total}
        for total in sums))


FULL = cases(SMALL, (100,), ())[0]
SPARSE, = cases(SMALL, (25,), ())
GROUPS_OF_8, = (case for case in cases(SMALL, (), (4,)) if case.groups == 4)
SPEED = Speed({"float32": 1e9, "tf32": 2e9}, 1e15)


def row(ours, tf32=1.0, *others):
    return Row((measured("gpucnn", "float32", ours, 2 * ours, 3 * ours),
                measured("gpucnn", "tf32", tf32, tf32, tf32),
                measured("torch", "float32", 0.4, 0.4, 0.4, setting="NCHW, float32"),
                measured("torch", "tf32", 0.2, 0.1, 0.2, setting="NCHW, tf32"), *others), {},
               {"float32": {"forward": "rows", "grad_input": "columns"},
                "tf32": {"forward": "tensor_cores"}})


def cells(table, case, found):
    head = table.head().splitlines()[0].strip("| ").split(" | ")
    return [dict(zip(head, line.strip("| ").split(" | "), strict=True))
            for line in table.rows(case, found).splitlines()]


def test_each_precision_of_ours_is_compared_with_the_peers_best_of_any():
    float32, tf32 = cells(ConvTable("cuda", ["torch"], SPEED), FULL, row(0.1, 0.05))
    assert (float32["precision"], tf32["precision"]) == ("float32", "tf32")
    assert (float32["gpucnn"], tf32["gpucnn"]) == ("200,000", "50,000")
    assert float32["gpucnn forward"] == "100,000"
    assert float32["torch"] == "200,000" and float32["best setting"] == "NCHW, tf32"
    assert float32["gpucnn / torch"] == "1.50" and float32["range"] == "0.50 to 2.00"
    assert tf32["gpucnn / torch"] == "0.25"
    assert float32["torch, grouped"] == float32["gpucnn / grouped"] == "-"


def test_a_row_says_what_share_of_the_full_table_s_time_it_takes():
    table = ConvTable("cuda", ["torch"], SPEED)
    assert [one["of full"] for one in cells(table, SPARSE, row(0.1))] == ["-", "-"]
    cells(table, FULL, row(0.1, 1.0))
    assert [one["of full"] for one in cells(table, SPARSE, row(0.05, 0.2))] == ["0.50", "0.20"]


def test_a_grouped_table_is_compared_with_a_grouped_convolution_too():
    found = row(0.1, 0.1, measured(GROUPED, "float32", 0.4, 0.4, 0.4))
    float32, _ = cells(ConvTable("cuda", ["torch"], None), GROUPS_OF_8, found)
    assert float32["torch, grouped"] == "400,000" and float32["gpucnn / grouped"] == "0.50"
    assert float32["of the limit"] == "-"


def test_below_the_table_stands_what_computed_ours_in_each_precision():
    assert ConvTable("cuda", ["torch"], None).ways(SPARSE, row(0.1)).splitlines() == [
        "2, 32, 32, 6, 3, random, 25 %, float32: forward by rows; grad_input by columns",
        "2, 32, 32, 6, 3, random, 25 %, tf32: forward by tensor_cores"]
    assert ConvTable("cpu", ["torch"], None).ways(SPARSE, row(0.1)) == (
        "2, 32, 32, 6, 3, random, 25 %: forward by rows; grad_input by columns")


def test_the_share_of_the_limit_is_by_the_speed_of_a_precision():
    multiply_adds = 3 * FULL.work()["forward"].multiply_adds
    ours = multiply_adds / 1e9
    float32, tf32 = cells(ConvTable("cuda", [], SPEED), FULL, row(ours, ours))
    assert (float32["of the limit"], tf32["of the limit"]) == ("50.0%", "50.0%")


def test_a_picture_has_a_field_for_each_shape_of_several_rows():
    pytest.importorskip("matplotlib")
    pairs = [(FULL, row(0.3)), (SPARSE, row(0.1)),
             (GROUPS_OF_8, row(0.1, 1.0, measured(GROUPED, "float32", 0.4, 0.4, 0.4)))]
    other = cases(Shape(3, 6, 16, 9, 5), (100,), ())[0], row(0.1)
    figure = conv_plot.times([*pairs, other], ["torch"], title="on cuda")
    axes, = [axes for axes in figure.axes if axes.get_visible()]
    assert "gpucnn, table of groups" in [text.get_text() for text in figure.legends[0].get_texts()]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["gpucnn"].get_xdata()) == pytest.approx([25, 100])
    assert list(lines["torch"].get_ydata()) == pytest.approx([200, 200])
    assert "on cuda" in figure.get_suptitle()
    assert conv_plot.png(conv_plot.times([other], ["torch"], title="one")).startswith(b"\x89PNG")


# -- clocks ----------------------------------------------------------------------------------------


def test_a_window_has_as_many_calls_as_fill_it():
    class Clock:
        most = 50

        def __call__(self, work, count):
            return 0.01

    assert Calls(Clock()).count(None, 0.1) == (10, 0.01)
    assert Calls(Clock()).count(None, 0.001) == (1, 0.01)
    assert Calls(Clock()).count(None, 9) == (50, 0.01)


def test_the_wall_clock_gives_the_seconds_of_one_call():
    calls = []
    assert 0 < WallClock()(lambda: calls.append(1), 5) < 1
    assert len(calls) == 1 + 5  # the first is not timed


def test_a_gpu_waits_until_its_work_is_queued_and_events_stand_around_the_calls():
    happened = []

    def event():
        happened.append("event")
        return len(happened)

    clock = EventClock(event, lambda seconds: happened.append(seconds), lambda first, last: 6.0)

    def work():
        happened.append("call")

    assert clock(work, 3) == 2.0
    assert happened == [0, "event", "call", "call", "call", "event"]
    happened.clear()
    clock(work, 3)
    assert happened[0] > 0  # as long as queueing took before
