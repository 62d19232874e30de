"""cuda_kernels/mbarrier.cuh: barriers with arrivals compile for GPUs, run right on the host, and
their planted faults are found there."""

import numpy as np
import pytest

from tests.cuda_on_cpu.planted_mbarriers import (
    BLOCKS,
    BULK,
    CONSUMERS,
    COPIED,
    FAULTS,
    RACES,
    mbarrier_source,
    ring,
    run,
    sums,
)
from tests.cuda_on_cpu.runtime import KernelFault
from tests.cuda_on_cpu.sanitized import run_sanitized
from tests.nvrtc import architectures, compile_for, ptx_for

ORDERS = ("forward", "reverse", 1, 2)
each_order = pytest.mark.parametrize("order", ORDERS)


@each_order
@pytest.mark.parametrize("parts", [{}, COPIED, BULK, COPIED | BULK],
                         ids=["written", "copied", "bulk stores", "copied, bulk stores"])
@pytest.mark.parametrize("sanitizer", [None, "thread"])
def test_producers_and_consumers_pass_a_ring_round(parts, order, sanitizer):
    got = run(ring(**parts), order=order, sanitizer=sanitizer)
    np.testing.assert_array_equal(got, sums())


@each_order
@pytest.mark.parametrize("name", RACES)
def test_the_race_detector_finds(name, order):
    planted = RACES[name]
    with pytest.raises(KernelFault, match=planted.symptom) as caught:
        run(planted.body, order=order, sanitizer="thread")
    assert not planted.line or planted.place in str(caught.value)


@each_order
@pytest.mark.parametrize("name", FAULTS)
def test_a_run_finds(name, order):
    planted = FAULTS[name]
    with pytest.raises(KernelFault, match=planted.symptom) as caught:
        run(planted.body, order=order)
    assert not planted.line or planted.place in str(caught.value)


def test_a_wait_orders_what_lanes_of_the_arriving_warp_did_before_they_met():
    """And, on the other side, what lanes do that have met with the one that has waited."""
    body = """__shared__ Mbarrier barrier;
__shared__ float values[32];
if (t == 0) init_mbarrier(&barrier, 1);
__syncthreads();
if (t < 32) {
values[t] = t;
__syncwarp();
if (t == 0) arrive(&barrier);
} else if (t < 64) {
if (t == 32) wait(&barrier, 0);
HERE
y[t] = values[63 - t];
}"""
    for order in ORDERS:
        got = run(body.replace("HERE", "__syncwarp();"), order=order, sanitizer="thread")
        np.testing.assert_array_equal(got[32:64], np.arange(31, -1, -1))
    with pytest.raises(KernelFault, match="data race"):
        run(body.replace("HERE", ";"), order="forward", sanitizer="thread")


def test_what_a_thread_has_learnt_by_waiting_it_passes_on():
    body = """__shared__ Mbarrier barriers[2];
__shared__ float value;
if (t < 2) init_mbarrier(&barriers[t], 1);
__syncthreads();
if (t == 0) {
value = 7;
arrive(&barriers[0]);
} else if (t == 40) {
HERE
arrive(&barriers[1]);
} else if (t == 80) {
wait(&barriers[1], 0);
y[80] = value;
}"""
    for order in ORDERS:
        assert run(body.replace("HERE", "wait(&barriers[0], 0);"), order=order,
                   sanitizer="thread")[80] == 7
        with pytest.raises(KernelFault, match="data race"):
            run(body.replace("HERE", ";"), order=order, sanitizer="thread")


def test_a_producer_that_does_not_wait_races_with_consumers_that_keep_up():
    planted = RACES["a producer that does not wait"]
    with pytest.raises(KernelFault, match="data race: write") as caught:
        run(planted.body, order="forward", sanitizer="thread")
    assert "planted.cu:12" in str(caught.value)
    assert planted.body.splitlines()[11].startswith("ring[slot][p] =")


@each_order
@pytest.mark.parametrize("missing", [0, 32, 64, 65])
def test_each_of_many_readers_has_to_arrive(missing, order):
    """More than stand for all where barriers are those of whole blocks and warps."""
    body = f"""__shared__ Mbarrier barrier;
__shared__ float value;
if (t == 0) {{ init_mbarrier(&barrier, ARRIVALS); value = 3; }}
__syncthreads();
if (t == 0 || t == 32 || (t >= 64 && t < 68)) {{
y[t] = value;
if (t != MISSING) arrive(&barrier);
}} else if (t == {CONSUMERS}) {{
wait(&barrier, 0);
value = 4;
}}"""
    right = body.replace("ARRIVALS", "6").replace("MISSING", "-1")
    assert run(right, order=order, sanitizer="thread")[missing] == 3
    wrong = body.replace("ARRIVALS", "5").replace("MISSING", str(missing))
    with pytest.raises(KernelFault, match=f"data race: .* by thread ({missing}|{CONSUMERS}) of"):
        run(wrong, order=order, sanitizer="thread")


def test_each_reader_of_a_byte_has_to_arrive():
    body = """__shared__ Mbarrier barrier;
__shared__ int word;
if (t == 0) { init_mbarrier(&barrier, 3); word = 0; }
__syncthreads();
if (t < 4) {
y[t] = word;
if (t != MISSING) arrive(&barrier);
} else if (t == 40) {
wait(&barrier, 0);
reinterpret_cast<char *>(&word)[1] = 4;
}"""
    run(body.replace("3);", "4);").replace("MISSING", "-1"), sanitizer="thread")
    for missing in range(4):
        with pytest.raises(KernelFault, match=f"data race: .* by thread ({missing}|40) of"):
            run(body.replace("MISSING", str(missing)), sanitizer="thread")


@each_order
@pytest.mark.parametrize("use", ["arrive(&barrier)", "arrive_when_copied(&barrier)",
                                 "wait(&barrier, 1)"])
def test_a_barrier_of_the_block_comes_between_the_first_use_and_the_initialisation(use, order):
    body = f"""__shared__ Mbarrier barrier;
if (t == 0) {{
init_mbarrier(&barrier, 2);
arrive(&barrier);
}}
HERE
if (t == 40) {use};"""
    run(body.replace("HERE", "__syncthreads();"), order=order, sanitizer="thread")
    with pytest.raises(KernelFault, match=r"data race|not initialised") as caught:
        run(body.replace("HERE", ";"), order=order, sanitizer="thread")
    assert "planted.cu:7" in str(caught.value)


@pytest.mark.parametrize("call", ["bulk_store(y + 1, sums, 16)", "bulk_store(y, sums + 2, 16)",
                                  "bulk_store(y, sums, 24)"])
def test_bulk_stores_are_of_whole_parts_of_16_bytes(call):
    body = f"__shared__ __align__(16) float sums[8];\nsums[t % 8] = 1;\nif (t == 0) {call};"
    with pytest.raises(KernelFault, match="__trap"):
        run(body)


@pytest.mark.thorough
def test_the_address_sanitizer_is_silent_for_a_ring():
    result = run_sanitized("address", ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider",
                                       __file__, "-k", "ring_round and None"])
    assert result.returncode == 0, result.stdout[-5000:]
    assert f"{4 * len(ORDERS)} passed" in result.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("store", ["bulk_store(y, sums, 48)",
                                   f"bulk_store(y + {BLOCKS * CONSUMERS - 4}, sums, 32)"],
                         ids=["read behind shared memory", "write behind an array"])
def test_the_address_sanitizer_sees_what_a_bulk_store_does(store):
    body = ("__shared__ __align__(16) float sums[8];\nsums[t % 8] = 1;\n"
            f"if (blockIdx.x == 0 && t == 0) {store};")
    result = run_sanitized("address", ["-c", "from tests.cuda_on_cpu.planted_mbarriers import run\n"
                                             f"run({body!r})"])
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stdout
    assert "planted.cu:3" in result.stdout


# -- real GPUs -------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("architecture", architectures())
def test_it_compiles_without_spills(architecture):
    source = mbarrier_source(ring(**COPIED, **BULK))
    found = compile_for(source, "planted.cu", architecture)["planted"]
    assert found.spill_bytes == found.stack_bytes == 0


@pytest.mark.parametrize(("architecture", "wanted"), [
    ("compute_80", {"mbarrier.test_wait.parity": 2, "mbarrier.try_wait": 0,
                    "cp.async.mbarrier.arrive.noinc": 1, "cp.async.bulk.global": 0}),
    ("compute_90", {"mbarrier.test_wait": 0, "mbarrier.try_wait.parity": 2,
                    "cp.async.mbarrier.arrive.noinc": 1, "cp.async.bulk.global": 1,
                    "fence.proxy.async": 1})])
def test_a_gpu_gets_instructions_of_its_own(architecture, wanted):
    parts = COPIED | {"STORE": f"if (HAS_BULK_STORES) {{\n{BULK['STORE']}\n}}"}
    text = ptx_for(mbarrier_source(ring(**parts)), "planted.cu", architecture)
    for instruction, count in wanted.items():
        found = text.count(instruction)
        assert found >= count if count else found == 0, instruction
