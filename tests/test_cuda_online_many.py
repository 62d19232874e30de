"""Many networks trained online in one launch: each gets the bits that it gets alone.

The kernels run on the host.
"""

from dataclasses import replace
from functools import partial

import pytest

from gpucnn import SGD, Adam, Cosine, Dataset, fit, fit_many
from gpucnn.backends.cuda.plan import online
from gpucnn.backends.cuda.plan.online import OnlineMany
from tests.online_cases import AMPERE, Choices, Trainees, even_matrices, with_room
from tests.plan_cases import at_once, byte_batch, cuda_backend, small_network

FEW_BLOCKS = replace(AMPERE, max_blocks=2)
OPTIMIZERS = {"plain": SGD(lr=0.05),
              "nesterov": SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
              "adam": Adam(lr=0.01)}
NETWORKS = 5

each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def trainees(optimizer=OPTIMIZERS["plain"], profile=FEW_BLOCKS, build=small_network, **options):
    return Trainees(build, cuda_backend(profile), count=NETWORKS, optimizer=optimizer, **options)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What the tests here launch, compiled at once."""
    at_once({name: partial(trainees(optimizer).one_by_one)
             for name, optimizer in OPTIMIZERS.items()})


@each_optimizer
def test_each_network_gets_the_bits_that_it_gets_alone(optimizer):
    """With an order, rates and shifts of its own; there are more networks than blocks."""
    one, other = trainees(optimizer), trainees(optimizer)
    assert isinstance(one.together(), OnlineMany)
    other.one_by_one()
    assert one.bits() == other.bits()
    assert [blocks for _, blocks, _ in one.backend.runtime.launches] == [2]
    assert [blocks for _, blocks, _ in other.backend.runtime.launches] == [1] * NETWORKS


def test_each_gets_those_bits_where_a_matrix_is_in_global_memory():
    """Which is read in vectors, and networks are of no multiple of a vector's size."""
    profile, choices = with_room(FEW_BLOCKS, 500, 4), Choices()
    one, other = (trainees(profile=profile, build=even_matrices) for _ in range(2))
    group = one.together(choices).kernel.planned
    other.one_by_one(choices)
    assert [home.kind for home in group.homes] == ["global", "global", "held"]
    assert group.n_parameters % 4 and group.group.layers[0].vector == 4
    assert one.bits() == other.bits()


def test_networks_go_on_where_they_have_ended():
    one, other = trainees(OPTIMIZERS["adam"]), trainees(OPTIMIZERS["adam"])
    for _ in range(2):
        one.together()
        other.one_by_one()
    assert one.bits() == other.bits()


@pytest.mark.parametrize("max_blocks", [1, 3, 1000])
def test_results_have_the_same_bits_on_grids_of_every_size(max_blocks):
    one, other = trainees(), trainees(profile=replace(FEW_BLOCKS, max_blocks=max_blocks))
    one.together()
    other.together()
    assert one.bits() == other.bits()


def test_long_training_is_cut_into_launches_and_progress_hears_of_every_sample(monkeypatch):
    monkeypatch.setattr(online, "LONGEST_LAUNCH", 2)
    one, other, heard = trainees(), trainees(), []
    one.together(progress=heard.append)
    other.one_by_one()
    assert one.bits() == other.bits()
    assert heard == [2 * NETWORKS, 2 * NETWORKS, NETWORKS]


def test_bad_labels_are_counted_for_each_network():
    one = trainees()
    one.labels[2] = 77
    one.together()
    counts = one.backend.to_host(one.totals)[:, 2]
    assert (counts == (one.orders == 2).sum(axis=1)).all() and counts.any()


def test_explain_says_how_many_networks_there_are():
    one = trainees()
    text = one.together().explain()
    assert f"{NETWORKS} networks, each in a block of" in text


def test_fit_many_gives_each_network_what_fit_gives_it():
    """With seeds and rates of their own, shifts and a schedule."""
    backend, rates, seeds = cuda_backend(FEW_BLOCKS), [0.02, 0.01, 0.005], [3, 1, 4]
    networks, others = ([small_network("float32", backend) for _ in rates] for _ in range(2))
    data = Dataset(*byte_batch(networks[0], 12), classes=5)
    settings = {"epochs": 2, "batch_size": 1, "shift": 1, "schedule": Cosine()}
    together = fit_many(networks, data, seed=seeds, optimizer=[SGD(lr) for lr in rates],
                        **settings)
    alone = [fit(network, data, seed=seed, optimizer=SGD(lr), **settings)
             for network, seed, lr in zip(others, seeds, rates, strict=True)]
    for network, other in zip(networks, others, strict=True):
        assert (backend.to_host(network.parameters.flat).tobytes()
                == backend.to_host(other.parameters.flat).tobytes())
    assert [[(record.train_loss, record.train_error) for record in history]
            for history in together] == [[(record.train_loss, record.train_error)
                                          for record in history] for history in alone]
