"""Configuration of MW-MAE (Yadav et al., ICLR 2024): a masked autoencoder of spectrograms with multi-window attention."""

from collections.abc import Sequence
from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between

PUBLISHED = (2, 5, 10, 25, 50, 125, 0, 0)


@strict
class MwMaeConfig(PreTrainedConfig):
    """Describe a MW-MAE model, or the plain MAE that the paper compares it with (`MwMaeConfig.baseline`).

    Args:
        spectrogram_size: frames and bins of one unit; longer spectrograms are encoded unit by unit.
        patch_size: frames and bins of a patch.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the encoder.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size: of the decoder.
        window_sizes: of the encoder's heads, in patches of the flat sequence; empty = ordinary attention (the release).
        decoder_window_sizes: of the decoder's heads: 0 attends to all without a bias; empty = ordinary attention. Each must
            divide the number of patches, see `fitting_windows`.
        shift_windows: whether every second block cuts its windows half a window further on.
        use_cls_token: a class token, as the plain MAE has.
        hidden_act: activation of the MLPs; the tanh approximation of GELU, as flax has it.
        layer_norm_eps: of every norm. hidden_dropout_prob: after attention and MLP, in training.
        initializer_range: standard deviation of learned tokens.
        mask_ratio: share of patches that is hidden in pre-training, in [0, 1).
        norm_patch_loss: whether the target is each patch standardised by its own mean and population variance.
        loss_weights: of the term "spectrogram".
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "mwmae"

    spectrogram_size: list[int] = field(default_factory=lambda: [200, 80])
    patch_size: list[int] = field(default_factory=lambda: [4, 16])
    hidden_size: int = 768
    num_hidden_layers: int = between(0)(12)
    num_attention_heads: int = 12
    intermediate_size: int = between(1)(3072)
    decoder_hidden_size: int = 384
    decoder_num_hidden_layers: int = between(0)(4)
    decoder_num_attention_heads: int = 8
    decoder_intermediate_size: int = between(1)(1536)
    window_sizes: list[int] = field(default_factory=list)
    decoder_window_sizes: list[int] = field(default_factory=lambda: list(PUBLISHED))
    shift_windows: bool = False
    use_cls_token: bool = False
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = between(0)(1e-6)
    hidden_dropout_prob: float = between(0, 1, below=True)(0.0)
    initializer_range: float = between(0)(0.02)
    mask_ratio: float = between(0, 1, below=True)(0.8)
    norm_patch_loss: bool = False
    loss_weights: dict[str, float] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along time and along frequency."""
        return self.spectrogram_size[0] // self.patch_size[0], self.spectrogram_size[1] // self.patch_size[1]

    @property
    def num_patches(self) -> int:
        """Patches of one unit."""
        return self.grid[0] * self.grid[1]

    @property
    def num_visible(self) -> int:
        """Patches of one unit that stay visible in pre-training, rounded as the authors' code does."""
        return int(self.num_patches * (100 - self.mask_ratio * 100) / 100)

    @property
    def num_extra(self) -> int:
        """Tokens before the patches."""
        return int(self.use_cls_token)

    def validate_sizes(self) -> None:
        """Check widths, heads and the grid."""
        for name in ("spectrogram_size", "patch_size"):
            if len(getattr(self, name)) != 2 or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be two numbers of at least 1: frames and bins"
                )
        if any(size % patch for size, patch in zip(self.spectrogram_size, self.patch_size, strict=True)):
            raise ValueError(f"spectrogram_size {self.spectrogram_size} is no multiple of patch_size {self.patch_size}")
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if width < 4 or width % 4 or heads < 1 or width % heads:
                raise ValueError(
                    f"{prefix}hidden_size {width} must be a multiple of 4 and of {prefix}num_attention_heads {heads}"
                )
        if set(self.loss_weights) - {"spectrogram"}:
            raise ValueError(f"loss_weights names {sorted(self.loss_weights)}; the one loss is 'spectrogram'")

    def validate_windows(self) -> None:
        """Check that windows cut the sequences they are of into whole parts."""
        whole, seen = self.num_patches + self.num_extra, self.num_visible + self.num_extra
        lengths = {"decoder_window_sizes": [whole], "window_sizes": [whole, seen]}
        for name, sizes in lengths.items():
            windows = getattr(self, name)
            heads = self.num_attention_heads if name == "window_sizes" else self.decoder_num_attention_heads
            if windows and len(windows) != heads:
                raise ValueError(f"{name} has {len(windows)} windows for {heads} heads")
            for length in sizes:
                check_windows(windows, length, name)


def divisors(length: int) -> list[int]:
    """Return the numbers that divide a length."""
    return [number for number in range(1, length + 1) if length % number == 0]


def check_windows(windows: Sequence[int], length: int, name: str = "windows") -> None:
    """Raise ValueError where a window does not divide a sequence, naming those and the divisors."""
    wrong = [window for window in windows if window and (window < 0 or length % window)]
    if wrong:
        raise ValueError(
            f"{name} {wrong} do not divide a sequence of {length} tokens; its divisors are {divisors(length)} "
            "(fitting_windows finds the nearest)"
        )


def fitting_windows(length: int, windows: Sequence[int] = PUBLISHED) -> list[int]:
    """Return windows for a sequence of another length: each the nearest divisor by ratio, the smaller of two; 0 stays 0."""
    import math

    known = divisors(length)
    return [0 if not w else min(known, key=lambda d: (round(abs(math.log(d / w)), 9), d)) for w in windows]
