"""cuda_kernels/mbarrier.cuh: barriers with arrivals compile for GPUs, run right on the host, and
their planted faults are found there."""

import numpy as np
import pytest

from tests.cuda_on_cpu.planted_mbarriers import (
    BULK,
    COPIED,
    FAULTS,
    RACES,
    mbarrier_source,
    ring,
    run,
    sums,
)
from tests.cuda_on_cpu.runtime import KernelFault
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
