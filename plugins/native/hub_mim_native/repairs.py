"""What transformers 5.23 leaves undone in a model that is built from a configuration."""

from typing import Any


def fill_position_tables(model: Any) -> None:
    """Fill MAE's position tables, class token and mask token.

    A `ViTMAEForPreTraining` that transformers 5.23 builds from a configuration has all of them zero, so that the encoder
    cannot tell where a patch is (`tests/test_native.py` shows it). Its own initialisers are right, once the mark of
    initialised layers is taken off.

    Args:
        model: a `ViTMAEForPreTraining` or `ViTMAEModel` without weights of a checkpoint.
    """
    embeddings = getattr(model, "vit", model).embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = (
        False  # the mark that makes the initialiser leave at once
    )
    embeddings.initialize_weights()
    if hasattr(model, "decoder"):
        model.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)
