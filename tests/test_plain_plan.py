"""The plain plan: layer by layer through the backend's ops, on any device."""

import numpy as np
import pytest

from gpucnn import (
    SGD,
    Adam,
    Conv2d,
    Dataset,
    Dense,
    Flatten,
    MaxPool2d,
    Mse,
    Network,
    Subsample2d,
    two_stage,
)
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import ArgumentError
from gpucnn.plans import PlainPlan
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.test_plans import batch, network


def plain_plan(net, *, loss="cross_entropy", optimizer=None, batch_size=6):
    """The plain plan on any device."""
    return PlainPlan(net, net.program(loss=loss, optimizer=optimizer or SGD(lr=0.1),
                                      batch_size=batch_size))


def test_the_plain_plan_explains_every_step():
    net = network()
    plain = PlainPlan(net, net.program(loss=Mse(target=1.0), batch_size=6,
                                       optimizer=SGD(lr=0.1, momentum=0.5)))
    text = plain.explain()
    assert "plain plan on cpu: layer by layer, float32" in text
    assert text.index("c1: conv2d,") < text.index("output: dense,") < text.index("mse")
    assert text.index("mse") < text.index("output: dense_backward") < text.index("momentum=0.5")
    with pytest.raises(ArgumentError, match="expected profile=False of the plain plan on cpu"):
        plain.explain(profile=True)


def test_the_plain_plan_runs_in_kernels_without_touching_the_host():
    backend = CudaBackend(HostRuntime())
    net = two_stage(device=backend)
    step = plain_plan(net, optimizer=SGD(lr=0.1, momentum=0.9), batch_size=2)
    data = step.load(Dataset(np.zeros((4, 28, 28), np.uint8), np.arange(4), classes=10))
    step.epoch(data, np.arange(4), None, [0.1, 0.1])
    launches = backend.runtime.launches
    kernels = [name for name, _, _ in launches]
    assert kernels[0] == "gather_bytes" and kernels[-1] == "sgd_step"
    first = kernels[:kernels.index("sgd_step") + 1]
    assert kernels == first * 2, "every step is the same launches"


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), SGD(lr=0.1, momentum=0.9), Adam()])
def test_a_warm_step_of_the_plain_plan_allocates_and_copies_nothing(monkeypatch, optimizer):
    """So that it can be captured in a CUDA graph."""
    backend = CudaBackend(HostRuntime())
    net = Network([Conv2d(1, 2, 3, bias=False, padding=1, activation="relu"), MaxPool2d(2),
                   Subsample2d(2, 1, trainable=False), Flatten(), Dense(2 * 4 * 4, 4)], (1, 8, 8),
                  device=backend)
    step = plain_plan(net, loss="mse", optimizer=optimizer, batch_size=2)
    data = step.load(Dataset(np.ones((2, 8, 8), np.uint8), np.arange(2), classes=4))
    step.epoch(data, [0, 1], [[0, 1], [1, 0]], [0.1])
    order = backend.from_host(np.arange(2, dtype=np.int32))
    scalars = backend.from_host(np.ones(2, np.float32))
    loss, totals = backend.empty((1,), np.float32), backend.zeros((3,), np.float64)
    before = backend.to_host(net.parameters.flat)
    with monkeypatch.context() as patch:
        for name in ("empty", "zero", "upload", "download", "copy", "compile", "synchronize"):
            patch.setattr(backend.runtime, name, lambda *_, name=name: pytest.fail(name))
        step.launch(data, order, None, scalars, loss, totals)
    assert not np.array_equal(before, backend.to_host(net.parameters.flat))


@pytest.mark.cuda
def test_a_step_of_the_plain_plan_is_captured_in_a_cuda_graph_and_replayed(cuda):
    cupy = pytest.importorskip("cupy")
    images, labels = batch(6)
    flats = []
    for captured in (False, True):
        net = network(cuda)
        step = plain_plan(net, optimizer=SGD(lr=0.1, momentum=0.9))
        with cupy.cuda.Stream(non_blocking=True) as stream:
            data = step.load(Dataset(images, labels, classes=4))
            order = cuda.from_host(np.arange(6, dtype=np.int32))
            scalars = cuda.from_host(np.array([0.1], np.float32))
            loss, totals = cuda.empty((1,), np.float32), cuda.zeros((3,), np.float64)
            arguments = data, order, None, scalars, loss, totals
            step.launch(*arguments)
            if captured:
                stream.begin_capture()
                step.launch(*arguments)
                graph = stream.end_capture()
            for _ in range(3):
                if captured:
                    graph.launch(stream)
                else:
                    step.launch(*arguments)
            flats.append(cuda.to_host(net.parameters.flat))
    assert np.array_equal(*flats)


def test_computing_beside_a_plan_does_not_disturb_it():
    """A plan has scratch memory of its own, so that a captured graph stays valid."""
    backend = CudaBackend(HostRuntime())
    net = network(backend)
    step = plain_plan(net)
    step.step(*batch(6))
    held = dict(step._workspace._buffers)
    net.forward(backend.from_host(np.zeros((50, 1, 5, 5), np.float32)))
    net.predict(np.zeros((70, 5, 5), np.uint8))
    assert all(step._workspace._buffers[key] is buffer for key, buffer in held.items())
