"""What a torch module keeps: initial values, state_dict with its table, copies and pickles."""

import copy
import io
import pickle

import numpy as np
import pytest

from gpucnn import ConnectionTable

torch = pytest.importorskip("torch")

from gpucnn.interop.torch import Conv2d, Subsample2d  # noqa: E402
from tests.interop.models import UNEVEN, filled, normal  # noqa: E402


def conv2d(table=UNEVEN, **options):
    return Conv2d(table.in_maps, table.out_maps, 3, connections=table, **options)


# -- initial values --------------------------------------------------------------------------------


def test_weights_start_uniform_within_the_bound_of_their_output_map_s_own_fan_in():
    table = ConnectionTable.from_matrix(np.triu(np.ones((40, 40))))
    module = conv2d(table, generator=torch.Generator().manual_seed(1))
    for out_map in (0, 19, 39):
        own = module.weight.detach()[torch.tensor(table.pairs[1] == out_map)]
        bound = (3 / (table.fan_in[out_map] * 9)) ** 0.5
        assert own.abs().max() <= bound
        assert own.abs().max() > 0.7 * bound
    scaled = module.weight.detach().double() * torch.tensor(
        (table.fan_in[table.pairs[1]] * 9) ** 0.5)[:, None, None]
    assert abs(scaled.mean()) < 0.05 and abs(scaled.var() - 1) < 0.05
    assert not module.bias.any()


def test_subsampling_starts_as_mean_pooling():
    module, x = Subsample2d(3, (2, 3)), normal(2, 3, 4, 6).float()
    torch.testing.assert_close(module(x), torch.nn.functional.avg_pool2d(x, (2, 3)))


def test_a_generator_gives_the_same_weights_and_leaves_torch_s_own_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = (conv2d(generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_torch_s_seed_decides():
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(conv2d().weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_type_and_device_are_those_asked_for():
    module = conv2d(dtype=torch.float64, device="meta")
    assert module.weight.dtype == module.bias.dtype == torch.float64
    assert module.weight.is_meta and module.connection_pairs.is_meta


def test_a_module_made_without_memory_gets_its_values_by_reset():
    module = torch.nn.utils.skip_init(Conv2d, 5, 7, 3, connections=UNEVEN)
    module.reset_parameters(torch.Generator().manual_seed(5))
    expected = conv2d(generator=torch.Generator().manual_seed(5)).state_dict()
    for name, values in module.state_dict().items():
        assert torch.equal(values, expected[name]), name


def test_a_module_says_what_it_is():
    assert str(Conv2d(6, 16, 5, connections=ConnectionTable.lenet5_c3(), activation="tanh",
                      bias=False)) == (
        "Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1), padding=(0, 0), 60 of 96 connections, "
        "bias=False, activation='tanh')")
    assert str(Subsample2d(6)) == "Subsample2d(6, pool_size=(2, 2), stride=(2, 2))"


# -- state_dict ------------------------------------------------------------------------------------


def network(table=UNEVEN):
    return torch.nn.Sequential(conv2d(table), Subsample2d(table.out_maps, activation="tanh"))


def test_a_state_dict_is_saved_and_loaded_with_the_table():
    first, second = filled(network()), network()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    x = normal(2, 5, 6, 6).float()
    assert torch.equal(first(x), second(x))
    assert list(first.state_dict()) == ["0.weight", "0.bias", "0.connection_pairs",
                                        "1.coefficient", "1.bias"]


@pytest.mark.parametrize("table", [
    ConnectionTable.from_pairs(UNEVEN.pairs[:, ::-1], 5, 7), ConnectionTable.full(5, 7),
], ids=["another order", "another number"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_of_another_table_is_refused_and_changes_nothing(table, strict):
    module = network()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    with pytest.raises(RuntimeError) as caught:
        module.load_state_dict(network(table).state_dict(), strict=strict)
    assert (f"Conv2d '0': expected the connections of this module, {UNEVEN!r}, got "
            f"{table.n_connections} connections that are not the same; build it with "
            f"connections=ConnectionTable.from_pairs(state['0.connection_pairs'], 5, 7)"
            ) in str(caught.value)
    for name in ("0.weight", "0.bias", "0.connection_pairs"):
        assert torch.equal(module.state_dict()[name], before[name])


def test_the_error_s_advice_builds_the_module_of_a_state_dict():
    state = filled(conv2d()).state_dict()
    table = ConnectionTable.from_pairs(state["connection_pairs"], 5, 7)
    assert table == UNEVEN
    conv2d(table).load_state_dict(state)


def test_a_state_dict_without_a_table_is_torch_s_error():
    state = conv2d().state_dict()
    del state["connection_pairs"]
    with pytest.raises(RuntimeError, match=r"Missing key.*connection_pairs"):
        conv2d().load_state_dict(state)


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(
    pickle.dumps(module))], ids=["deepcopy", "pickle"])
def test_a_copy_computes_the_same_with_parameters_of_its_own(copied):
    module, x = filled(network()), normal(2, 5, 6, 6).float()
    twin = copied(module)
    assert torch.equal(twin(x), module(x))
    assert twin[0].connections == UNEVEN
    twin(x).sum().backward()
    assert module[0].weight.grad is None
    with torch.no_grad():
        twin[0].weight.zero_()
    assert not torch.equal(twin(x), module(x))


def test_a_module_changes_its_type():
    module = filled(network()).double()
    assert module(normal(2, 5, 6, 6)).dtype == torch.float64
    assert module[0].connection_pairs.dtype == torch.int32
