"""Active data curation: of a large batch, keep the pairs that a reference model finds easy and the learner does not.

Sources: ACID (Udandarao et al. 2024, arXiv:2411.18674), whose selection is that of JEST (Evans et al. 2024,
arXiv:2406.17711); neither has public code: written from their descriptions. Shapes: S pairs, E channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hub_mim.masking import row_noise


class Judge(NamedTuple):
    """A model's view of the pairs: unit vectors (S, E) of pictures and texts, its log-temperature and bias."""

    images: Tensor
    texts: Tensor
    log_scale: Tensor | float
    bias: Tensor | float

    def losses(self, rows: Tensor, columns: Tensor, same: bool = False) -> Tensor:
        """Return -log sigmoid(m logit), m = -1, of pictures `rows` with texts `columns`; `same`: of pairs, m = 1, (S,)."""
        scale = torch.as_tensor(self.log_scale).double().exp().to(self.images.device).reshape(())
        bias = torch.as_tensor(self.bias).double().to(self.images.device).reshape(())
        x, y = self.images[rows].double(), self.texts[columns].double()
        if same:
            return softplus(-((x * y).sum(1) * scale + bias))
        return softplus(x @ y.T * scale + bias)


def select_learnable(
    learner: Judge,
    reference: Judge,
    keep: int,
    *,
    chunks: int = 16,
    seed: int = 0,
    block: int = 4096,
) -> Tensor:
    """Choose the pairs that are most worth learning together.

    s_ij = loss_ij(learner) - loss_ij(reference). The first share is drawn without replacement by exp(s_ii); each further one
    by exp(s_ii + sum over the chosen j of s_ij + s_ji). No temperature on s.

    Args:
        learner, reference: what both say of the same S pairs; widths may differ.
        keep: how many to choose, in [1, S]. chunks: draws; the first `keep` modulo `chunks` of them take one pair more.
        seed: decides the draws (Gumbel noise). block: pairs whose losses with the newly chosen are held at once.
    Returns:
        int64 (keep,), distinct, in the order of choice; keep = S gives a permutation.
    Raises:
        ValueError: `keep` or `chunks` is out of range, or the judges saw different numbers of pairs.
    """
    count, device = len(learner.images), learner.images.device
    sizes = {len(each) for judge in (learner, reference) for each in judge[:2]}
    if sizes != {count} or not 1 <= keep <= count or chunks < 1:
        raise ValueError(
            f"{keep} pairs are to be chosen in {chunks} draws from {sorted(sizes)}; give one number of pairs, and keep 1 to all"
        )
    every = torch.arange(count, device=device)
    gain = learner.losses(every, every, same=True) - reference.losses(every, every, same=True)
    chosen: list[Tensor] = []
    shares = _shares(keep, chunks)
    for number, size in enumerate(shares):
        points = row_noise(torch.tensor([seed], device=device), count, stream=number)[0].double()
        gumbel = -(-(points + 2.0**-25).log()).log()
        fresh = (gain + gumbel).topk(size).indices
        chosen.append(fresh)
        if number + 1 == len(shares):
            break
        for start in range(0, count, block):
            part = every[start : start + block]
            for judge, sign in ((learner, 1), (reference, -1)):
                gain[part] += sign * (judge.losses(part, fresh).sum(1) + judge.losses(fresh, part).sum(0))
        gain[fresh] = -torch.inf
    return torch.cat(chosen)


def _shares(keep: int, chunks: int) -> Sequence[int]:
    chunks = min(chunks, keep)
    return [keep // chunks + (number < keep % chunks) for number in range(chunks)]


def judge(model: Any, batch: dict[str, Any]) -> Judge:
    """Return what two towers say of a batch of all processes, without gradients; see `Siglip2MimModel.see`."""
    from hub_mim.gathering import gather_rows, row_counts
    from hub_mim_siglip2.contrast import unit

    with torch.no_grad():
        picture = {name: value for name, value in batch.items() if name != "input_ids"}
        images, texts = unit(model.see(**picture).pooler_output), unit(model.read(batch["input_ids"]).pooler_output)
        counts = row_counts(len(images), images.device)
        return Judge(gather_rows(images, counts), gather_rows(texts, counts), model.logit_scale, model.logit_bias)
