"""What every test of the core shares."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors are slower on several threads, and sums differ between numbers of threads."""
    import torch

    torch.set_num_threads(1)
