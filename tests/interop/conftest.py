"""What the tests of gpucnn.interop share."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread():
    """The tensors are small, and threads of PyTorch beside NumPy's cost more than they save."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
