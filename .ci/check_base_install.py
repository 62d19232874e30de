"""Checks an installed wheel with nothing but its base dependencies, from outside the repository."""

import importlib.util
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import gpucnn
from gpucnn.backends.cuda.kernels import kernel_directory
from gpucnn.errors import DeviceError, MissingDependencyError

needed = {text.split()[0].split(">")[0] for text in requires("gpucnn") if "extra" not in text}
assert needed == {"numpy", "safetensors"}, needed
for package in ("click", "rich", "matplotlib", "PIL", "cupy", "pooch"):
    assert importlib.util.find_spec(package) is None, f"{package} is here: no base install"

kernels = sorted(path.name for path in kernel_directory().glob("*.cu"))
assert kernel_directory().parent == Path(gpucnn.__file__).parent, kernel_directory()
assert "conv2d.cu" in kernels and (kernel_directory() / "activation.cuh").is_file(), kernels

train, test = gpucnn.digits()
network = gpucnn.lenet5()
gpucnn.fit(network, train.balanced(50), epochs=2, batch_size=16)
gpucnn.save_network(network, "model.safetensors")
again = gpucnn.load_network("model.safetensors")
assert gpucnn.evaluate(network, test) == gpucnn.evaluate(again, test)

for demand, error, words in (
    (lambda: gpucnn.lenet5(device="cuda"), DeviceError, "CuPy is not installed: pip install"),
    (lambda: gpucnn.fit(network, test, epochs=1, progress=True), MissingDependencyError, "rich"),
    (lambda: gpucnn.read_picture("digit.png"), MissingDependencyError, "gpucnn[cli]"),
    (gpucnn.download_mnist, MissingDependencyError, "gpucnn[data]"),
):
    try:
        demand()
    except error as caught:
        assert words in str(caught), caught
    else:
        raise AssertionError(f"expected {error.__name__} with {words!r}")

command = [Path(sys.executable).parent / "gpucnn", "train"]
run = subprocess.run(command, capture_output=True, text=True)
assert run.returncode == 1 and "gpucnn[cli]" in run.stderr and "Traceback" not in run.stderr, run
print(f"base install: {len(kernels)} kernel files, trained, saved, loaded, and clear about extras")
