"""What every test of the core shares."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

THEIRS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")


def pytest_configure(config):
    """Know the marks of transformers' own tests."""
    for name in THEIRS:
        config.addinivalue_line("markers", f"{name}: of transformers' tests")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors are slower on several threads, and sums differ between numbers of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def absent():
    """A model type of the list of known distributions that nothing here brings, and its distribution."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from hub_mim import plugins

    here = {method.model_type for method in plugins.methods().values()} | set(CONFIG_MAPPING_NAMES)
    return next((kind, name) for kind, name in plugins.known_distributions().items() if kind not in here)
