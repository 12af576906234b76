"""Greedy writing: captions, boxes for what is named, names for what is boxed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class WritesTexts:
    """A model with `towers` and a `decoder` that writes."""

    @torch.no_grad()
    def generate_captions(
        self: Any,
        pixel_values: Tensor,
        prompt: Sequence[Sequence[int]] | Sequence[int] | Tensor | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> list[list[int]]:
        """Write on from a prompt, always the likeliest word, until the text ends.

        Args:
            pixel_values and others: as in `get_image_features`.
            prompt: token numbers, one list for all pictures or one each, as the processor's `prompt` gives them; default none.
            max_length: tokens with the prompt; default `decoder_length`.
        Returns:
            For each picture the tokens behind its prompt, without the end; `tokenizer.decode` makes text of them.
        Raises:
            ValueError: the model has no decoder, prompts are not as many as pictures, or one is too long.
        """
        config = self.config
        if not hasattr(self, "decoder"):
            raise ValueError("this model has no decoder: 'caption' is not among its losses")
        out = self.towers.see(pixel_values, **kwargs)
        prompts = _prompts(prompt, len(pixel_values))
        length = min(max_length or config.decoder_length, config.decoder_length)
        longest = max(map(len, prompts))
        if longest >= length:
            raise ValueError(f"a prompt has {longest} tokens; at most {length - 1} leave room for an answer")
        valid = kwargs["pixel_attention_mask"].bool() if config.naflex else None
        ids = torch.zeros(len(prompts), length, dtype=torch.int64, device=pixel_values.device)
        for row, given in enumerate(prompts):
            ids[row, : len(given)] = torch.tensor(given, dtype=torch.int64)
        begins = torch.tensor([len(given) for given in prompts], device=ids.device)
        alone = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        ended = alone.clone()
        for place in range(int(begins.min()), length):
            # what is read at a place are the words before it
            states = self.decoder(ids[:, : place + 1], out.last_hidden_state, alone, valid)
            told = self.decoder.output(states[:, -1]).argmax(-1)
            ids[:, place] = torch.where(place >= begins, told, ids[:, place])
            ended |= (place >= begins) & (told == config.eos_token_id)
            if ended.all():
                break
        return [
            _answer(row[len(given) :], config.eos_token_id) for row, given in zip(ids.tolist(), prompts, strict=True)
        ]


def _prompts(prompt: Any, rows: int) -> list[list[int]]:
    given = [] if prompt is None else prompt.tolist() if isinstance(prompt, Tensor) else list(prompt)
    if not given or not isinstance(given[0], Sequence):
        return [[int(each) for each in given]] * rows
    if len(given) != rows:
        raise ValueError(f"there are {len(given)} prompts for {rows} pictures; give one for all, or one each")
    return [[int(each) for each in part] for part in given]


def _answer(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
