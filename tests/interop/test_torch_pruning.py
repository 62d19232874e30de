"""From a pruned torch.nn.Conv2d to a table convolution, and back."""

import numpy as np
import pytest

from gpucnn import ConnectionTable
from gpucnn.errors import ArgumentError, DTypeError, ShapeError, TableError

torch = pytest.importorskip("torch")
from torch.nn.utils import prune  # noqa: E402

from gpucnn.interop.torch import Conv2d  # noqa: E402
from tests.interop.models import UNEVEN, filled, normal  # noqa: E402


def dense(in_channels=4, out_channels=6, kernel_size=3, **options):
    return filled(torch.nn.Conv2d(in_channels, out_channels, kernel_size, dtype=torch.float64,
                                  **options))


def sparse(**options):
    """A convolution some of whose planes are zero, and which are not (out, in / groups)."""
    convolution = dense(**options)
    planes = convolution.weight.shape[:2]
    kept = normal(*planes, seed=7).abs() < 0.7
    kept[:, 0] |= ~kept.any(1)
    with torch.no_grad():
        convolution.weight *= kept[:, :, None, None]
    return convolution, kept


def check_same(convolution, module):
    x = normal(2, convolution.in_channels, 8, 7)
    torch.testing.assert_close(module(x), convolution(x), rtol=1e-12, atol=1e-12)


# -- from torch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"stride": (2, 1), "padding": (1, 2)}, {"bias": False}, {"kernel_size": (2, 3)},
    {"groups": 2}, {"groups": 4, "in_channels": 8, "out_channels": 12},
    {"padding": "same", "kernel_size": (3, 5)}, {"padding": "valid"},
], ids=str)
def test_zero_planes_have_no_connection_and_the_output_is_the_same(options):
    convolution, kept = sparse(**options)
    module = Conv2d.from_masked(convolution)
    assert module.connections.n_connections == kept.sum() < kept.numel()
    check_same(convolution, module)


def test_connections_are_in_the_order_of_torch_s_weights():
    convolution = dense()
    module = Conv2d.from_masked(convolution)
    assert module.connections == ConnectionTable.full(4, 6)
    assert torch.equal(module.weight, convolution.weight.reshape(24, 3, 3))


def test_planes_are_kept_whose_largest_weight_is_above_the_threshold():
    convolution = dense(2, 2)
    with torch.no_grad():
        convolution.weight.fill_(0.1)
        convolution.weight[0, 1, 2, 2] = -0.5
        convolution.weight[1, 0, 0, 0] = 0.6
    module = Conv2d.from_masked(convolution, 0.4)
    assert module.connections.pairs.tolist() == [[1, 0], [0, 1]]
    assert Conv2d.from_masked(convolution, 0.5, keep_largest=True).connections.n_connections == 2
    with pytest.raises(TableError, match="got none to 0;"):
        Conv2d.from_masked(convolution, 0.5)


def test_a_weight_that_is_not_a_number_is_kept_to_be_noticed():
    convolution, _ = sparse()
    with torch.no_grad():
        convolution.weight[2, 3, 1, 1] = torch.nan
    module = Conv2d.from_masked(convolution, 0.1)
    assert module.connections.matrix[3, 2] and module.weight.isnan().sum() == 1


@pytest.mark.parametrize("form", [
    lambda kept: kept, lambda kept: kept.numpy(), lambda kept: kept.int().tolist(),
    lambda kept: kept[:, :, None, None] * torch.eye(3),
], ids=["bool", "NumPy", "list", "of weights"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_mask_decides_whatever_the_weights_are(form, groups):
    convolution, kept = sparse(groups=groups)
    full = dense(groups=groups)
    module = Conv2d.from_masked(full, mask=form(kept))
    assert module.connections == Conv2d.from_masked(convolution).connections
    with torch.no_grad():
        full.weight *= kept[:, :, None, None]
    check_same(full, module)


def test_the_mask_of_torch_s_own_pruning_counts():
    convolution = dense()
    prune.random_unstructured(convolution, "weight", 0.3)
    prune.custom_from_mask(convolution, "weight", sparse()[1][:, :, None, None].expand(6, 4, 3, 3))
    prune.l1_unstructured(convolution, "bias", 2)
    module = Conv2d.from_masked(convolution)
    kept = convolution.weight_mask.flatten(2).any(2)
    assert module.connections.n_connections == kept.sum() < 24
    check_same(convolution, module)


def test_weights_that_an_optimiser_has_changed_since_are_those_that_count():
    convolution = dense()
    prune.ln_structured(convolution, "weight", 2, n=2, dim=1)
    with torch.no_grad():
        convolution.weight_orig *= 3
    module = Conv2d.from_masked(convolution)
    assert module.connections.n_connections == 12
    check_same(convolution, module)


def test_a_threshold_goes_for_what_a_mask_leaves():
    convolution = dense()
    prune.ln_structured(convolution, "weight", 1, n=2, dim=1)
    module = Conv2d.from_masked(convolution, 1.5)
    largest = convolution.weight.detach().abs().amax((2, 3))
    assert module.connections.n_connections == (largest > 1.5).sum() < 18


def test_output_maps_without_a_connection_are_named():
    convolution = dense()
    with torch.no_grad():
        convolution.weight[[1, 4]] = 0
    with pytest.raises(TableError, match="from_masked: expected a connection to every output map, "
                                         "got none to 1, 4; keep_largest=True keeps the largest"):
        Conv2d.from_masked(convolution)
    module = Conv2d.from_masked(convolution, keep_largest=True)
    assert module.connections.fan_in.tolist() == [4, 1, 4, 4, 1, 4]
    check_same(convolution, module)


def test_the_largest_plane_is_kept_with_its_weights_unless_they_are_masked():
    convolution = dense()
    largest = convolution.weight[1].flatten(1).norm(dim=1).argmax().item()
    mask = torch.ones(6, 4)
    mask[1] = 0
    module = Conv2d.from_masked(convolution, mask=mask, keep_largest=True)
    own = module.weight[torch.tensor(module.connections.pairs[1] == 1)]
    assert module.connections.matrix[:, 1].nonzero()[0].tolist() == [largest]
    assert torch.equal(own[0], convolution.weight[1, largest])
    prune.custom_from_mask(convolution, "weight", mask[:, :, None, None].expand(6, 4, 3, 3))
    masked = Conv2d.from_masked(convolution, keep_largest=True)
    assert masked.connections == module.connections
    check_same(convolution, masked)


def test_type_mode_and_frozen_parameters_are_taken_over():
    convolution, _ = sparse()
    convolution.float().eval()
    convolution.weight.requires_grad_(False)
    module = Conv2d.from_masked(convolution, activation="relu")
    assert module.weight.dtype == torch.float32 and not module.training
    assert not module.weight.requires_grad and module.bias.requires_grad
    x = normal(1, 4, 6, 6).float()
    torch.testing.assert_close(module(x), convolution(x).relu())


def test_the_conversion_leaves_the_convolution_and_torch_s_seed_alone():
    convolution, _ = sparse()
    before = convolution.weight.clone(), torch.get_rng_state()
    module = Conv2d.from_masked(convolution)
    module.to_dense()
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(convolution.weight, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(("convolution", "error", "message"), [
    (lambda: torch.nn.Conv2d(4, 6, 3, dilation=2), ArgumentError,
     r"dilation \(1, 1\), got \(2, 2\)"),
    (lambda: torch.nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), ArgumentError,
     "padding_mode 'zeros', got 'circular'"),
    (lambda: torch.nn.Conv2d(4, 6, (3, 2), padding="same"), ArgumentError,
     r"odd kernel_size with padding 'same', got \(3, 2\)"),
    (lambda: torch.nn.Linear(4, 6), ArgumentError, r"a torch\.nn\.Conv2d, got Linear"),
    (lambda: torch.nn.ConvTranspose2d(4, 6, 3), ArgumentError, "got ConvTranspose2d"),
    (lambda: torch.nn.LazyConv2d(6, 3), ArgumentError, "a LazyConv2d that has seen no input"),
    (lambda: torch.nn.Conv2d(4, 6, 3).bfloat16(), DTypeError, r"got torch\.bfloat16"),
], ids=range(7))
def test_what_has_no_equivalent_is_refused(convolution, error, message):
    with pytest.raises(error, match=f"from_masked: expected .*{message}"):
        Conv2d.from_masked(convolution())


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"threshold": 0.1, "mask": torch.ones(6, 4)}, ArgumentError,
     "a threshold or a mask, got both"),
    ({"mask": torch.ones(4, 6)}, ShapeError,
     r"a mask of shape \(6, 4\) or \(6, 4, 3, 3\), got \(4, 6\)"),
    ({"threshold": -1}, ArgumentError, "a threshold of at least 0, got -1"),
    ({"threshold": np.ones(3)}, ArgumentError, "a threshold of at least 0"),
], ids=range(4))
def test_a_wrong_threshold_or_mask_is_refused(options, error, message):
    with pytest.raises(error, match=f"from_masked: expected {message}"):
        Conv2d.from_masked(dense(), **options)


# -- and back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_to_dense_gives_the_equivalent_convolution(bias):
    module = filled(Conv2d(5, 7, (3, 2), (2, 1), (0, 1), connections=UNEVEN, bias=bias,
                           dtype=torch.float64)).eval()
    convolution = module.to_dense()
    assert type(convolution) is torch.nn.Conv2d and not convolution.training
    assert convolution.weight.requires_grad and convolution.weight.is_leaf
    check_same(convolution, module)


def test_there_and_back_is_the_same_convolution():
    convolution, _ = sparse(stride=2, padding=1)
    again = Conv2d.from_masked(convolution).to_dense()
    assert torch.equal(again.weight, convolution.weight)
    assert torch.equal(again.bias, convolution.bias)
    assert (again.stride, again.padding) == (convolution.stride, convolution.padding)


def test_an_activation_cannot_go_back():
    with pytest.raises(ArgumentError, match="expected a Conv2d with activation='identity', since "
                                            r"torch\.nn\.Conv2d has no other, got 'tanh'"):
        Conv2d(2, 2, 1, activation="tanh").to_dense()
