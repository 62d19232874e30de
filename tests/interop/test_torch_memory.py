"""Scratch memory of gpucnn.interop.torch's modules on the CPU: kept by each, from call to call."""

import copy
import gc
import pickle
import threading
import weakref

import pytest

torch = pytest.importorskip("torch")

from gpucnn.interop.torch import Conv2d, Subsample2d, tensors  # noqa: E402
from tests.interop.models import UNEVEN, filled, normal, reference  # noqa: E402


def module():
    return filled(Conv2d(5, 7, (3, 2), padding=1, connections=UNEVEN, activation="tanh",
                         dtype=torch.float64))


@pytest.fixture
def made(monkeypatch):
    """Names of the scratch arrays whose memory was made, in order."""
    found, take = [], tensors._HostWorkspace.take

    def watched(self, name, shape, dtype):
        before = len(self._buffers)
        array = take(self, name, shape, dtype)
        found.extend([name] * (len(self._buffers) - before))
        return array

    monkeypatch.setattr(tensors._HostWorkspace, "take", watched)
    return found


@pytest.mark.parametrize("build", [
    module, lambda: filled(Subsample2d(5, activation="tanh", dtype=torch.float64))],
    ids=["conv2d", "subsample2d"])
def test_the_second_call_makes_no_memory_and_computes_the_same(build, made):
    one, x = build(), normal(4, 5, 8, 8, requires_grad=True)
    results = []
    for _ in range(3):
        output = one(x)
        x.grad = None
        output.square().sum().backward()
        results.append((output.detach().clone(), x.grad.clone()))
        first, made[:] = list(made), []
        assert bool(first) == (len(results) == 1)
    for output, grad in results[1:]:
        assert torch.equal(output, results[0][0]) and torch.equal(grad, results[0][1])


def test_calls_see_parameters_sizes_and_types_as_they_are_at_the_time():
    one = module()
    for number, shape in enumerate([(4, 5, 8, 8), (2, 5, 6, 9), (5, 8, 8), (4, 5, 8, 8)]):
        with torch.no_grad():
            one.weight.mul_(-1.5)
        x = normal(*shape, seed=number)
        torch.testing.assert_close(one(x), reference(one, x))
    one.float()
    x = normal(4, 5, 8, 8).float()
    torch.testing.assert_close(one(x), reference(one, x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
                         ids=["deepcopy", "pickle"])
def test_a_copy_has_memory_of_its_own(copied):
    one, x = module(), normal(4, 5, 8, 8)
    expected = one(x)
    twin = copied(one)
    with one._memory.lent() as first, twin._memory.lent() as second:
        assert first is not second
    assert torch.equal(twin(x), expected)


def test_a_call_beside_another_thread_s_does_not_use_its_memory():
    one, x = module(), normal(4, 5, 8, 8)
    expected, found = one(x), []
    with one._memory.lent() as held:
        with one._memory.lent() as other:
            assert other is not held
        thread = threading.Thread(target=lambda: found.append(one(x)))
        thread.start()
        thread.join(60)
    assert torch.equal(found[0], expected)
    with one._memory.lent() as again:
        assert again is held


def test_memory_is_lent_again_after_an_error():
    one, x = module(), normal(4, 5, 8, 8)
    with one._memory.lent() as held:
        pass
    with pytest.raises(ZeroDivisionError), one._memory.lent():
        raise ZeroDivisionError
    with one._memory.lent() as again:
        assert again is held
    torch.testing.assert_close(one(x), reference(one, x))


def test_tensors_of_calls_and_the_memory_of_a_module_are_given_back():
    gc.collect()
    gc.disable()
    try:
        one, alive = module(), []
        for _ in range(4):
            x = normal(4, 5, 8, 8, requires_grad=True)
            output = one(x)
            output.sum().backward()
            alive += [weakref.ref(tensor.untyped_storage()) for tensor in ()]
            alive += [weakref.ref(x), weakref.ref(output), weakref.ref(x.grad)]
            del x, output
        with one._memory.lent() as workspace:
            alive.append(weakref.ref(workspace))
        del one, workspace
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()
