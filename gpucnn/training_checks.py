"""What training asks of its arguments; `where` is the function that errors name."""

import warnings

from gpucnn.course import Course
from gpucnn.data import Dataset
from gpucnn.errors import ArgumentError, DataError, ShapeError
from gpucnn.losses import CrossEntropy
from gpucnn.network import LARGEST_SEED
from gpucnn.plans import check_classes
from gpucnn.schedules import Constant, Cosine, StepDecay
from gpucnn.shapes import whole_number


def as_dataset(data, where):
    """`data`, a `Dataset` or (images, labels), as a `Dataset` of at least one sample."""
    if not isinstance(data, Dataset):
        try:
            images, labels = data
        except (TypeError, ValueError):
            raise ArgumentError(f"{where}: expected a Dataset or (images, labels), got "
                                f"{type(data).__name__}") from None
        data = Dataset(images, labels)
    if len(data) == 0:
        raise DataError(f"{where}: expected at least one sample, got none")
    return data


def as_validation(data, networks, where):
    """`data` as a `Dataset` that all `networks` can be measured on, or None."""
    if data is None:
        return None
    where = f"{where}: validation"
    data = as_dataset(data, where)
    for network in networks:
        check_measurable(network, data, where)
    return data


def check_measurable(network, dataset, where):
    """Check that the network gives one answer, of the data set's classes, for each image."""
    check_classes(dataset, network.output_shape[0], where)
    network.checked_images(dataset.images)
    positions = network.positions(dataset.image_shape[1:])
    if positions not in ((), (1, 1)):
        raise ShapeError(f"{where}: expected one answer an image, got {positions[0]}x"
                         f"{positions[1]} (images of shape {dataset.image_shape})")


def checked_course(network, samples, where, *, epochs, batch_size, schedule, shift, shuffle):
    """The `Course` of these settings for a network and so many samples."""
    if schedule is not None and not isinstance(schedule, (Constant, Cosine, StepDecay)):
        raise ArgumentError(f"{where}: expected a schedule such as Constant() or Cosine(), got "
                            f"{schedule!r}")
    return Course(
        samples, whole_number(epochs, f"{where}: epochs", least=1),
        min(whole_number(batch_size, f"{where}: batch_size", least=1), samples),
        schedule or Constant(),
        whole_number(shift, f"{where}: shift", least=0, most=max(network.input_shape[1:])),
        bool(shuffle))


def checked_seed(seed, where):
    """`seed` as an int, if it is one of Philox."""
    return whole_number(seed, f"{where}: seed", least=0, most=LARGEST_SEED)


def warn_of_output(network, loss, where):
    """Cross-entropy is meant for linear outputs, which squashing would confine."""
    activation = network.layers[-1].options().get("activation", "identity")
    if isinstance(loss, CrossEntropy) and activation != "identity":
        warnings.warn(f"{where}: cross_entropy expects linear outputs, but layer "
                      f"{network.layers[-1].name!r} has activation={activation!r}: use "
                      f"activation='identity' there, or loss='mse'", RuntimeWarning, stacklevel=3)
