"""Prune the connections of a PyTorch network, and stop paying for them.

    pip install gpucnn[torch] && python examples/prune_torch.py

Trains a small network of torch layers on the embedded digits, prunes its second convolution by the
norm of its planes (the weights between two maps), replaces that by the table convolution that is
left, and trains on. Prints test error and time of a training step before and after. All planes
between an input map and a block of output maps are kept or pruned together: NumPy is quick where
output maps share their inputs (on a GPU blocks of 1 do as well). Less than a minute on two cores.
"""

import argparse
import statistics
import time

import torch

import gpucnn
from gpucnn.interop.torch import Conv2d

BATCH_SIZE = 64


def main(arguments=None):
    options = parsed(arguments)
    torch.manual_seed(0)
    device = torch.device(options.device)
    train, test = (on_device(dataset, device) for dataset in gpucnn.digits())
    train = tuple(tensor[:options.samples] for tensor in train)
    model = network().to(device)

    step = trained(model, train, options.epochs, rate=0.02)
    print(f"dense:  {wrong(model, test):5.2f} % wrong, {1000 * step:6.2f} ms a training step")
    prune(model, options.keep, options.block)
    print(f"pruned: {wrong(model, test):5.2f} % wrong, {model[3]}")
    step = trained(model, train, options.epochs, rate=0.01)
    print(f"tuned:  {wrong(model, test):5.2f} % wrong, {1000 * step:6.2f} ms a training step")


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--epochs", type=int, default=3, help="before pruning, and after it again")
    parser.add_argument("--samples", type=int, default=5000, help="digits to train on")
    parser.add_argument("--keep", type=float, default=0.125, help="the share of planes to keep")
    parser.add_argument("--block", type=int, default=32, help="output maps pruned together")
    return parser.parse_args(arguments)


def on_device(dataset, device):
    """Images in -1..1 and labels of a data set, as tensors."""
    images = torch.tensor(dataset.images, device=device).float() / 127.5 - 1
    return images, torch.tensor(dataset.labels, device=device).long()


def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),    # 32 maps of 12 x 12
        torch.nn.Conv2d(32, 64, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),   # 64 maps of 4 x 4
        torch.nn.Flatten(), torch.nn.Linear(64 * 4 * 4, 10))


def trained(model, data, epochs, rate):
    """Train, and return the median time of a step in seconds."""
    images, labels = data
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    times = []
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), device=labels.device).split(BATCH_SIZE):
            x, targets = images[batch], labels[batch]
            start = now(labels.device)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), targets).backward()
            optimizer.step()
            times.append(now(labels.device) - start)
    return statistics.median(times)


def now(device):
    """The time in seconds, after all that the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def wrong(model, data):
    """The error on a data set in per cent."""
    images, labels = data
    return 100 * (model(images).argmax(1) != labels).float().mean().item()


def prune(model, keep, block):
    """Replace the second convolution by one with the share `keep` of its planes."""
    convolution = model[3]
    energy = convolution.weight.detach().square().sum((2, 3))              # (out, in)
    energy = torch.stack([rows.sum(0) for rows in energy.split(block)])    # (blocks, in)
    kept = energy.argsort(1, descending=True)[:, :max(1, round(keep * energy.shape[1]))]
    mask = torch.zeros_like(energy).scatter_(1, kept, 1).repeat_interleave(block, 0)
    model[3] = Conv2d.from_masked(convolution, mask=mask[:convolution.out_channels])


if __name__ == "__main__":
    main()
