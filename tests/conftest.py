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
def absent(monkeypatch):
    """A model type that the list of known distributions names and that nothing here brings, and its distribution.

    All that the shipped list names may be installed, so one more is put on it.
    """
    from hub_mim import plugins

    known = plugins.known_distributions() | {"not_here": "hub-mim-not-here"}
    monkeypatch.setattr(plugins, "known_distributions", lambda: known)
    return "not_here", "hub-mim-not-here"


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A tiny CLIP of transformers' own, with random weights and its processor."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    words = {word: number for number, word in enumerate(["<pad>", "a", "photo", "of", ".", "small", "large", "<end>"])}
    tokens = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 7)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="<end>", model_max_length=8
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": 8,
        "eos_token_id": 7,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "max_position_embeddings": 8,
    }
    vision = small | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
