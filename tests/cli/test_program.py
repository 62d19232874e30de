"""`gpucnn info`, `gpucnn gradcheck`, and the program as a whole."""

import subprocess
import sys

import numpy as np

import gpucnn
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.runtime import DeviceProfile
from gpucnn.cli import commands
from gpucnn.cli.group import one_line
from gpucnn.errors import DeviceError, KernelError
from gpucnn.gradcheck import GradientCheck
from tests.cli.calls import fail, process, refuse, succeed


class FakeRuntime:
    """A GPU that has NumPy arrays and a compiler that refuses one kernel file."""

    device = "cuda:0"
    profile = DeviceProfile("Imaginary GPU", (9, 0), 4)

    def owns(self, array):
        return isinstance(array, np.ndarray)

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)

    def zero(self, array):
        array[...] = 0

    def upload(self, host, out=None):
        return np.array(host)

    def download(self, array):
        return array.copy()

    def compile(self, source, name):
        if name.startswith("max_pool2d.cu"):
            raise KernelError(f"{name} does not compile:\nline 7: no")


def test_info_prints_versions_devices_and_why_there_is_no_gpu(monkeypatch):
    def no_gpu(device="auto"):
        if device == "cpu":
            return cpu
        raise DeviceError(f"device {device!r}: CuPy is not installed: pip install gpucnn[cuda12]")

    cpu = gpucnn.get_backend("cpu")
    monkeypatch.setattr(gpucnn, "get_backend", no_gpu)
    printed = succeed("info")
    assert f"gpucnn  {gpucnn.__version__}" in printed and f"NumPy   {np.__version__}" in printed
    assert all(name in printed for name in ("Python", "CuPy", "BLAS"))
    assert "cuda    none: CuPy is not installed: pip install gpucnn[cuda12]" in printed
    assert "none compiled: that takes a usable GPU" in printed


def test_info_lists_each_kernel_with_ok_or_its_error(monkeypatch):
    def one_gpu(device="auto"):
        if device == "cuda:1":
            raise DeviceError("device 'cuda:1': expected an index below 1")
        return gpu if device == "cuda:0" else cpu

    cpu, gpu = gpucnn.get_backend("cpu"), CudaBackend(FakeRuntime())
    monkeypatch.setattr(gpucnn, "get_backend", one_gpu)
    lines = succeed("info").split("kernels\n")[1].splitlines()
    assert any(line.startswith("  ok     conv2d.cu (float32, scaled_tanh") for line in lines)
    failed = [line for line in lines if line.startswith("  error")]
    assert failed and all("max_pool2d.cu" in line and line.endswith("line 7: no")
                          for line in failed)
    assert f"{len(lines) - 1 - len(failed)} of {len(lines) - 1} compile for cuda:0" in lines[-1]


def test_gradcheck_agrees_for_each_model_and_loss():
    for options in (("--model", "two_stage"), ("--loss", "mse", "--seed", 3)):
        printed = succeed("gradcheck", "--device", "cpu", *options)
        assert "c3.weight" in printed and "agree: the largest relative error is" in printed


def test_gradcheck_names_a_gradient_that_is_wrong(monkeypatch):
    monkeypatch.setattr(gpucnn, "gradcheck", lambda *arguments, **keywords: [
        GradientCheck("c1.weight", 1.0, 1.0, 1.0), GradientCheck("c3.bias", 1.0, 1.1, 1.0)])
    message = fail("gradcheck", "--device", "cpu")
    assert "expected relative errors of at most 1e-06, got 9.1e-02 for c3.bias" in message


# -- the program -----------------------------------------------------------------------------------

def test_program_answers_version_and_help_as_a_process():
    with process("--version") as version, process("--help") as usage:
        assert version.communicate()[0] == f"gpucnn {gpucnn.__version__}\n"
        assert all(name in usage.communicate()[0] for name in commands.commands)


def test_help_needs_neither_matplotlib_nor_rich():
    script = ("import sys; from gpucnn.cli import commands; "
              "commands(['--help'], standalone_mode=False); "
              "sys.exit(any(name in sys.modules for name in ('matplotlib', 'rich', 'PIL')))")
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


def test_base_install_says_what_the_command_line_needs():
    script = ("import sys, importlib.util; find = importlib.util.find_spec; "
              "importlib.util.find_spec = lambda name: None if name == 'click' else find(name); "
              "from gpucnn.__main__ import main; main()")
    result = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True)
    assert result.returncode == 1
    assert result.stderr == ("gpucnn: the command line needs click, not installed here: "
                             "pip install gpucnn[cli]\n")


def test_mistyped_command_is_refused():
    assert "No such command 'trian'" in refuse("trian")


def test_messages_of_the_operating_system_name_the_file_in_one_line():
    assert one_line(PermissionError(13, "Permission denied", "a/b")) == "a/b: Permission denied"
    assert one_line(ValueError("one\n  two\n")) == "one two"
    assert one_line(MemoryError()) == "MemoryError"
