"""The choice among the kernels of conv2d, what it is made from, and what is remembered of it."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

from gpucnn import ConnectionTable, functional
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.conv2d_kernels import remembered, ring, tiles, walks, weight
from gpucnn.backends.cuda.conv2d_kernels.choice import candidates, conv2d_kernels
from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT, GRAD_WEIGHT
from gpucnn.backends.cuda.conv2d_kernels.speed import Speed, wavefronts
from gpucnn.errors import ArgumentError, KernelError
from tests.cases import DOUBLE, Conv2dCase
from tests.conv2d_cases import FAMILIES, KERNEL_CASES, RANDOM, UNEVEN, problem_of, with_kernel
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import PROFILE, HostRuntime
from tests.layouts import put

OPS = (FORWARD, GRAD_INPUT, GRAD_WEIGHT)
FULL = ConnectionTable.full
WIDE = Conv2dCase(RANDOM, 5, (16, 20), (3, 3), padding=(1, 1), activation="relu")
CASE = Conv2dCase(UNEVEN, 2, (5, 6), (2, 2))


# -- orders of tables ------------------------------------------------------------------------------
# ---------------------------------------------------------------------------------

TABLES = {"full": FULL(7, 11), "random": ConnectionTable.random(40, 50, density=0.1, seed=3),
          "one to one": ConnectionTable.one_to_one(20), "uneven": UNEVEN}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(("map_warps", "maps", "turns", "chunk"),
                         [(8, 2, 1, 5), (4, 1, 1, 3), (2, 2, 5, 100), (1, 1, 1, 1)])
def test_a_walk_has_every_connection_once_at_its_maps_places(table, map_warps, maps, turns, chunk):
    for forward, targets, side in ((True, table.out_maps, 1), (False, table.in_maps, 0)):
        walk = walks.walk(table, forward, map_warps, maps, turns, chunk)
        entries, found = walk.entries.reshape(-1, 2), []
        size = map_warps * maps * turns
        for slot, target in enumerate(walk.target_maps):
            used = walk.used[slice(*walk.used_starts[slot // size:slot // size + 2])]
            for c in range(walk.chunks):
                first, end = walk.starts[slot * walk.chunks + c:slot * walk.chunks + c + 2]
                for place, connection in entries[first:end]:
                    assert table.pairs[side, connection] == target
                    assert table.pairs[1 - side, connection] == used[c * chunk + place]
                    assert place < chunk
                    found.append(int(connection))
        assert sorted(found) == list(range(table.n_connections))
        assert sorted(walk.target_maps[walk.target_maps >= 0]) == list(range(targets))


def test_a_walk_evens_out_the_connections_of_its_warps():
    table = ConnectionTable.random(64, 64, density=0.25, seed=1)
    walk = walks.walk(table, True, map_warps=8, maps=2, turns=1, chunk=16)
    loads = np.diff(walk.starts).reshape(-1, 2, walk.chunks).sum(1).reshape(4, 8, walk.chunks)
    plain = table.matrix.T.reshape(4, 8, 2, 4, 16).sum((2, 4))
    assert loads.max(1).sum() < plain.max(1).sum()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(("teams", "shared", "outputs", "x_slots"), [(4, 2, 100, 9), (8, 4, 6, 2),
                                                                     (3, 1, 100, 1)])
def test_teams_own_every_tap_once_and_every_bias_once(table, teams, shared, outputs, x_slots):
    (rows, columns), parts = weight.tap_blocks((7, 7))
    order = walks.teams(table, teams=teams, shared=shared, outputs=outputs, x_slots=x_slots,
                        tap_blocks=parts)
    owned, biases = np.zeros((table.n_connections, 7, 7), int), []
    assert order.x_slots <= x_slots
    for number, record in enumerate(order.records.reshape(-1, 5 + 3 * shared)):
        block = number // teams
        x = order.x_maps[order.x_starts[block]:order.x_starts[block + 1]]
        dz = order.dz_maps[order.dz_starts[block]:order.dz_starts[block + 1]]
        for output, connection, bias in record[5:].reshape(-1, 3):
            if connection < 0:
                continue
            assert tuple(table.pairs[:, connection]) == (x[record[0]], dz[output])
            biases += [int(bias)] * int(bias >= 0)
            owned[connection, max(record[1], record[3]):record[1] + rows,
                  max(record[2], record[4]):record[2] + columns] += 1
    assert (owned == 1).all()
    assert sorted(biases) == list(range(table.out_maps))


def test_orders_are_made_and_uploaded_once(monkeypatch):
    runtime, uploads = HostRuntime(), []
    backend, upload = CudaBackend(runtime), runtime.upload

    def counted(*arguments):
        uploads.append(arguments)
        return upload(*arguments)

    monkeypatch.setattr(runtime, "upload", counted)
    case = KERNEL_CASES["conv2d, tiles"]
    arrays = {name: put(backend, array) for name, array in case.arrays().items()}
    case.call(backend, arrays)
    before = len(uploads)
    case.call(backend, arrays)
    assert len(uploads) == before


def test_lanes_meet_in_banks_as_a_gpu_serves_them():
    lanes = np.arange(32)
    assert wavefronts(lanes, 1) == 1 and wavefronts(4 * lanes, 4) == 4
    assert wavefronts(32 * lanes, 1) == 32 and wavefronts(0 * lanes, 1) == 1
    assert wavefronts(2 * lanes, 1) == 2 and wavefronts(8 * lanes, 4) == 8


# -- the choice ------------------------------------------------------------------------------------
# ---------------------------------------------------------------------------------------


def chosen(shape, kernel_size, table, architecture="sm_90", **options):
    """The family chosen for each op."""
    return {choice.op: choice.candidates[0].family for choice in
            conv2d_kernels(PROFILES[architecture], shape, kernel_size, table, **options)}


def random(maps, density):
    return ConnectionTable.random(maps, maps, density=density, seed=1)


@pytest.mark.parametrize("architecture", PROFILES)
def test_sparse_tables_are_walked_on_every_gpu(architecture):
    for shape, kernel, table in (((128, 64, 32, 32), 3, random(64, 0.125)),
                                 ((64, 256, 16, 16), 3, random(256, 0.031)),
                                 ((256, 6, 14, 14), 5, ConnectionTable.lenet5_c3())):
        assert set(chosen(shape, kernel, table, architecture).values()) == {"tiles"}


@pytest.mark.parametrize(("options", "architecture", "families"), [
    ({}, "sm_90", ("tiles", "tensor_cores")),
    ({"precision": "tf32"}, "sm_80", ("tiles", "tensor_cores")),
    ({}, "sm_75", ("tiles", "matrix")),
    ({"dtype": "float64"}, "sm_90", ("tiles", "matrix")),
], ids=str)
def test_a_dense_table_is_no_trap(options, architecture, families):
    assert set(chosen((64, 256, 16, 16), 3, FULL(256, 256), architecture,
                      **options).values()) <= set(families)


def test_few_pixels_of_a_dense_table_are_a_matrix():
    assert chosen((1024, 64, 5, 5), 5, FULL(64, 120), "sm_75")["forward"] == "matrix"


def test_time_falls_with_the_density():
    for shape, maps in (((128, 64, 32, 32), 64), ((64, 256, 16, 16), 256)):
        dense, sparse = (sum(choice.seconds for choice in conv2d_kernels(
            PROFILES["sm_90"], shape, 3, random(maps, density), kernel="tiles"))
            for density in (1.0, 0.125))
        assert sparse < 0.3 * dense


def test_tf32_is_never_slower_than_float32():
    for table in (FULL(64, 64), random(64, 0.25)):
        fast, exact = (sum(choice.seconds for choice in conv2d_kernels(
            PROFILES["sm_90"], (128, 64, 32, 32), 3, table, precision=precision))
            for precision in ("tf32", "float32"))
        assert fast <= exact


def test_a_choice_prints_what_was_considered():
    text = str(conv2d_kernels(PROFILES["sm_90"], (128, 64, 32, 32), 3, random(64, 0.25))[0])
    assert text.startswith("forward: 1061.7 M multiply-adds, 63.1 MB, limit ")
    assert re.search(r"\n  \* tiles:\d+x\d+x\d:\S+ +[\d.]+ us +0\.\d\d of the limit\n", text)
    assert all(family in text for family in FAMILIES)


def test_every_kernel_from_1_to_11_and_1_to_1024_maps_has_candidates():
    for maps, size, kernel in ((1, 11, 11), (1024, 8, 1), (1024, 8, 3), (3, 40, 7)):
        table = ConnectionTable.random(maps, maps, density=min(1, 8 / maps), seed=1)
        case = Conv2dCase(table, 4, (size, size), (kernel, kernel))
        for op in OPS:
            for profile in (PROFILES["sm_75"], PROFILES["sm_90"]):
                found = candidates(problem_of(case, op), Speed.of(profile))
                assert {each.family for each in found} >= {"tiles", "matrix", "general"}
                assert all(each.seconds > 0 for each in found)


def test_a_ring_is_taken_by_name_or_measured_and_never_by_its_estimate():
    for density in (0.25, 0.03):
        for choice in conv2d_kernels(PROFILES["sm_90"], (128, 64, 32, 32), 3, random(64, density)):
            families = [each.family for each in choice.candidates]
            assert families[0] != "ring"
            assert ("ring" in families) == (choice.op != GRAD_WEIGHT)
    named = dict.fromkeys((FORWARD, GRAD_INPUT), "ring")
    assert list(chosen((128, 64, 32, 32), 3, random(64, 0.1), kernel=named).values())[:2] == [
        "ring", "ring"]


def test_there_is_no_ring_before_copies_were_asynchronous():
    assert all(each.family != "ring" for each in candidates(
        problem_of(WIDE, FORWARD), Speed.of(PROFILES["sm_75"]), kept=None))


@pytest.mark.parametrize("architecture", PROFILES)
def test_no_plan_asks_for_more_shared_memory_than_there_is(architecture):
    profile = PROFILES[architecture]
    for case in (WIDE, CASE, Conv2dCase(random(64, 0.25), 128, (32, 32), (5, 5))):
        for op in (FORWARD, GRAD_INPUT):
            problem, speed = problem_of(case, op), Speed.of(profile)
            rings = [plan for warps in ring.WARPS for plan in ring.plans(problem, speed, warps)]
            for plan in (*tiles.plans(problem, speed), *rings):
                assert plan.shared_bytes < profile.dynamic_shared_bytes


@pytest.mark.parametrize(("options", "message"), [
    ({"kernel": "fast"}, "expected a kernel of tiles, ring, matrix, tensor_cores, general, "
                          "got 'fast'"),
    ({"kernel": 3}, "got 3"),
    ({"kernel": {"forward": "fast"}}, "got 'fast'"),
    ({"precision": "half"}, "precision: expected one of float32, tf32, got 'half'"),
], ids=str)
def test_unknown_names_are_refused(options, message, cuda_on_cpu):
    with pytest.raises(ArgumentError, match=message):
        WIDE.run(with_kernel(cuda_on_cpu, options.pop("kernel", None), **options))


@pytest.mark.parametrize(("case", "name", "message"), [
    (replace(WIDE, dtype=DOUBLE), "tensor_cores",
     "'tensor_cores' does not compute forward of a 3x3"),
    (replace(WIDE, stride=(2, 2)), "tiles", "'tiles' does not compute grad_input .*matrix do"),
    (WIDE, "tiles:9x9x9", "'tiles:9x9x9' does not compute"),
], ids=["doubles", "strides", "no such plan"])
def test_a_kernel_that_cannot_is_refused(case, name, message, cuda_on_cpu):
    with pytest.raises(KernelError, match=message):
        case.run(with_kernel(cuda_on_cpu, name))


def test_functional_passes_the_names_on(known_arrays):
    if known_arrays.device == "cpu":
        return
    case = KERNEL_CASES["conv2d, matrix"]
    arrays = {name: put(known_arrays, array) for name, array in case.arrays().items()}
    runtime = known_arrays.runtime
    launches = getattr(runtime, "launches", [])
    before = len(launches)
    functional.conv2d(arrays["x"], arrays["weight"], arrays["bias"], case.table, stride=case.stride,
                      padding=case.padding, kernel="matrix", precision="float32", autotune=False)
    assert [name for name, _, _ in launches[before:]] in (
        [], ["conv2d_dense_weight", "conv2d_matrix_forward"])


# -- measuring -------------------------------------------------------------------------------------
# ----------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(remembered.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "conv2d_kernels.json"


def measured(monkeypatch, fastest="general"):
    """A backend for which kernels of the family `fastest` take no time, and how often it
    measured."""
    backend, times = CudaBackend(HostRuntime(max_blocks=3)), []

    def seconds(work, repetitions=10):
        times.append(work.args[0].name)
        work()
        return 0.0 if times[-1].startswith(fastest) else 1.0

    monkeypatch.setattr(backend.runtime, "seconds", seconds)
    return backend, times


def test_autotune_measures_once_and_remembers_in_a_file(cache, monkeypatch):
    backend, times = measured(monkeypatch)
    for _ in range(2):
        CASE.check(with_kernel(backend, None, autotune=True))
    assert {name.partition(":")[0] for name in times} == set(FAMILIES)
    assert len(times) == len(set(times)) + 2 * len({name
                                                    for name in times if times.count(name) > 2})\
        or len(times) >= 12
    content = json.loads(cache.read_text())
    assert content["version"] == remembered.version()
    assert set(content["kernels"][backend.runtime.profile.name].values()) == {"general"}
    again, times = measured(monkeypatch, "matrix")
    CASE.check(with_kernel(again, None, autotune=True))
    assert times == []
    assert {name for name, _, _ in again.runtime.launches} >= {"conv2d_general_forward"}


def test_a_remembered_choice_is_of_one_device_and_version(cache, monkeypatch):
    CASE.run(with_kernel(measured(monkeypatch)[0], None, autotune=True))
    content = json.loads(cache.read_text())
    for changed in (content | {"version": "another"},
                    content | {"kernels": {"another": content["kernels"][PROFILE.name]}}):
        cache.write_text(json.dumps(changed))
        backend, times = measured(monkeypatch)
        CASE.run(with_kernel(backend, None, autotune=True))
        assert times


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"kernels": {}}',
                                     b'{"version": "V", "kernels": {"device": {"problem": 3}}}',
                                     b'{"version": "V", "kernels": 5}'])
def test_a_file_that_cannot_be_read_is_ignored_with_a_warning(content, cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_bytes(content.replace(b"V", remembered.version().encode()))
    with pytest.warns(UserWarning, match="conv2d_kernels.json are ignored"):
        assert remembered.recall("device", problem_of(CASE, FORWARD), ("general",)) is None


def test_a_file_that_cannot_be_written_is_a_warning(cache):
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_bytes(b"in the way")
    with pytest.warns(UserWarning,
                      match="cannot remember the fastest kernels"), warnings.catch_warnings():
        warnings.simplefilter("always")
        remembered.remember("device", problem_of(CASE, FORWARD), ("general",), "general")


