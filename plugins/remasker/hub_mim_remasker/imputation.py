"""`ReMaskerImputer`: fill the gaps of a table with ReMasker, as a scikit-learn transformer.

Training is hub-mim's own (`MaskedTrainer`), so what is fitted here saves, loads and is shared like any other model.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from hub_mim.data import Collator, EncodedRows
from hub_mim.run import Run, now
from hub_mim.trainer import KeepBest, MaskedTrainer, ProgressLine
from hub_mim_remasker.blending import Blend, blends
from hub_mim_remasker.configuration_remasker import ReMaskerConfig
from hub_mim_remasker.modeling_remasker import GaussianSkip, ReMaskerForPreTraining
from hub_mim_remasker.plugin import IMPUTATION, hub_mim_methods
from hub_mim_remasker.processing_remasker import ReMaskerProcessor, as_frame

LEGACY_EPOCHS = 600  # the authors' configs.py
BATCH = 512  # rows predicted at a time: what a core's cache holds (scripts/bench_remasker.py)
MAX_RESIDUALS = 256  # kept per column, for sampling


class ReMaskerImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Learn a table and fill gaps, its own and those of rows it has not seen.

    Numbers, whole numbers, truth values, dates and categories are modelled; see `ReMaskerProcessor` for the rest. Cells
    that are observed come back bit for bit, with their dtype and index. A column without any observed cell stays empty.

    Args:
        preset: size and options of the model; one of the plugin's presets.
        legacy: reproduce the authors: their arithmetic, size (32 wide, 6 + 4 blocks), masks and recipe.
        max_steps: optimiser steps; None takes a quarter of the number of cells, between 400 and 1200 (legacy: 600 epochs).
        batch_size: rows a step.
        learning_rate: at its peak.
        weight_decay: of AdamW.
        validation_fraction: share of the observed cells that is held out to choose the best step and to measure the
            spread of errors; 0 trains for all steps on all cells.
        patience: stop after this many of the 20 evaluations without gain; None never stops.
        mask_samples: predictions averaged per gap, each with other visible cells hidden; 1 shows all.
        config: further configuration fields, over the preset's.
        scaling: of numeric columns; see `ReMaskerProcessor`.
        max_levels: see `ReMaskerProcessor`.
        sample_posterior: fill with draws instead of the best guess, so that columns keep their spread.
        chunk_size: rows encoded and predicted at a time; bounds memory.
        random_state: int, RandomState or None; decides weights, order, masks and draws.
        verbose: show progress on stderr.

    Attributes:
        model_: the trained `ReMaskerForPreTraining`; None where no column varies.
        processor_: the fitted `ReMaskerProcessor`.
        run_: record of the training.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Source: Du, Melis, Wang (ICLR 2024, arXiv:2309.13793).
    """

    def __init__(
        self,
        preset: str = "default",
        *,
        legacy: bool = False,
        max_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        mask_samples: int | None = None,
        config: dict[str, Any] | None = None,
        scaling: str | None = None,
        max_levels: int = 100,
        sample_posterior: bool = False,
        chunk_size: int = 65_536,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.preset = preset
        self.legacy = legacy
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.mask_samples = mask_samples
        self.config = config
        self.scaling = scaling
        self.max_levels = max_levels
        self.sample_posterior = sample_posterior
        self.chunk_size = chunk_size
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "ReMaskerImputer":
        """Learn a table with gaps.

        Args:
            X: DataFrame or two-dimensional array (rows, columns); None, NaN, NaT and pd.NA are missing.
            y: ignored.
        Raises:
            ValueError: fewer than two rows, infinite values, a column that mixes types, parameters out of range.
        """
        self._check_parameters()
        frame = self._check(X, reset=True)
        if len(frame) < 2:
            raise ValueError(
                f"the table has n_samples = {len(frame)}, but there is nothing to learn from fewer than 2 rows"
            )
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        scaling = "minmax" if self.legacy else self.scaling or IMPUTATION["scaling"]
        self.processor_ = ReMaskerProcessor(scaling=scaling, max_levels=self.max_levels)
        self.model_: Any = None
        self.run_ = Run(method="remasker", data="in memory", rows=len(frame), seed=seed, preset=self._preset()).stamp()
        self.processor_.fit(frame, constant=True)
        if self.processor_.modelled():
            with one_thread():
                self._train(self.processor_(frame), seed)
        self.run_.status, self.run_.ended = "finished", now()
        return self

    def transform(self, X: Any) -> Any:
        """Fill the gaps of a table with the columns that were fitted.

        Args:
            X: as in `fit`; columns may lack cells that were complete then.
        Returns:
            A table of the same kind, index, columns and dtypes; see `sample` for several fillings.
        """
        check_is_fitted(self, "processor_")
        frame = self._check(X, reset=False)
        random = check_random_state(self.random_state) if self.sample_posterior else None
        return self._as_given(self._fill(frame, random), X)

    def sample(self, X: Any, n_imputations: int = 5) -> list[Any]:
        """Fill the gaps several times, each filling drawn: numbers from the errors made on held-out cells, categories
        from their probabilities. What differs between the fillings is what the table does not tell.

        Args:
            X: as in `transform`.
            n_imputations: number of fillings.
        Returns:
            A list of tables.
        Source: Rubin (1987), "Multiple Imputation for Nonresponse in Surveys".
        """
        check_is_fitted(self, "processor_")
        frame = self._check(X, reset=False)
        random = check_random_state(self.random_state)
        return [self._as_given(self._fill(frame, random), X) for _ in range(n_imputations)]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write model, processor, card and record into a folder that `AutoModel.from_pretrained` loads.

        Raises:
            ValueError: no column varied, so that there is no model.
        """
        from hub_mim import registry, sharing
        from hub_mim.plugins import get_method

        check_is_fitted(self, "processor_")
        if self.model_ is None:
            raise ValueError("no column of the table varied, so there is no model to save")
        registry.register_method(get_method("remasker"))
        return sharing.save(folder, self.model_, self.processor_, run=self.run_, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, source: str | Path, **parameters: Any) -> "ReMaskerImputer":
        """Load an imputer from a folder or Hub id written by `save` or by `hub-mim pretrain remasker`.

        Args:
            source: folder or Hub id.
            parameters: of the imputer, such as `chunk_size` or `random_state`.
        """
        from hub_mim import loading

        model = loading.load(source, auto="AutoModelForPreTraining")
        return cls.from_trained(model, loading.load_processor(source), **parameters)

    @classmethod
    def from_trained(cls, model: ReMaskerForPreTraining, processor: ReMaskerProcessor, **parameters: Any) -> Any:
        """Return an imputer around a trained model and its processor."""
        imputer = cls(**parameters)
        imputer.model_, imputer.processor_ = model.eval(), processor
        names = [column.name for column in processor.fitted()]
        imputer.n_features_in_ = len(names)
        if not all(name == f"x{place}" for place, name in enumerate(names)):
            imputer.feature_names_in_ = np.array(names, dtype=object)
        return imputer

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    # --- checks ---

    def _check_parameters(self) -> None:
        presets = hub_mim_methods()[0].presets
        if self.preset not in presets:
            raise ValueError(f"preset is {self.preset!r}; it must be one of {', '.join(presets)}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; it must be at least 0 and less than 1"
            )
        for name in ("max_steps", "batch_size", "chunk_size", "mask_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    def _check(self, X: Any, *, reset: bool) -> pd.DataFrame:
        """Return the input as a DataFrame whose columns are called as in fitting."""
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return as_frame(X)
        X = X if _is_object(X) else check_array(X, dtype="numeric", ensure_all_finite="allow-nan", ensure_min_samples=1)
        X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite=False)
        return as_frame(X)

    def _as_given(self, frame: pd.DataFrame, X: Any) -> Any:
        if isinstance(X, pd.DataFrame):
            return frame
        table = frame.to_numpy()
        given = np.asarray(X)
        return table.astype(given.dtype) if given.dtype.kind in "fiub" and table.dtype != given.dtype else table

    def _preset(self) -> str:
        return "legacy" if self.legacy else self.preset

    # --- training ---

    def _train(self, encoded: Any, seed: int) -> None:
        from transformers import set_seed

        tensors = dict(encoded)
        held_out = self._held_out(tensors["observed"], seed)
        set_seed(seed)
        whole = self.processor_.gaussian
        if held_out is not None:  # what chooses the best step must be new to every part of the model
            seen = (tensors["observed"] & ~held_out).numpy()
            self.processor_.gaussian = self.processor_.normal_model(tensors["values"].numpy(), seen)
        self.model_ = ReMaskerForPreTraining(self._config())
        train = tensors if held_out is None else tensors | {"observed": tensors["observed"] & ~held_out}
        callbacks: list[Any] = [ProgressLine()] if self.verbose else []
        best = KeepBest(self.patience, "eval_loss/remasked" if self.model_.decoder.head else "eval_loss")
        evaluation = None
        if held_out is not None:
            rows = held_out.any(1)
            chosen = {name: tensor[rows] for name, tensor in (tensors | {"mask": held_out}).items()}
            evaluation = EncodedRows(chosen)
            callbacks.append(best)
        with tempfile.TemporaryDirectory() as folder:
            trainer = MaskedTrainer(
                model=self.model_,
                args=self._arguments(folder, seed, len(encoded["values"]), evaluation is not None),
                train_dataset=EncodedRows(train),
                eval_dataset=evaluation,
                data_collator=Collator(self.processor_),
                callbacks=callbacks,
                decay_all=self.legacy,
            )
            trainer.train()
        self.model_ = self.model_.to("cpu").eval()
        self._note(trainer, best)
        if held_out is not None:
            self._blend(tensors, held_out)
            self.processor_.residuals = self._residuals(tensors, held_out)
            self._use_gaussian(whole)

    @torch.inference_mode()
    def _blend(self, tensors: dict[str, Tensor], held_out: Tensor) -> None:
        """Choose on the held-out cells how far to trust the Transformer beside the normal model."""
        if not blends(self.model_):
            return
        blend = Blend()
        for rows in torch.arange(len(held_out)).split(BATCH):
            blend.add(self.model_, {name: tensor[rows] for name, tensor in tensors.items()}, held_out[rows])
        self.model_.config.blend = blend.weight()

    def _use_gaussian(self, gaussian: dict[str, Any]) -> None:
        """Put the normal model of all cells in place of the one that training saw."""
        self.processor_.gaussian = gaussian
        for name, value in gaussian.items():
            setattr(self.model_.config, f"gaussian_{name}", value)
        if isinstance(getattr(self.model_.decoder, "skip", None), GaussianSkip):
            with torch.no_grad():
                self.model_.decoder.skip.reset()
        self.run_.config = json.loads(self.model_.config.to_json_string(use_diff=False))

    def _held_out(self, observed: Tensor, seed: int) -> Tensor | None:
        """Choose the cells that training does not see, at most every second one of a row."""
        from hub_mim.masking import budget, hide_highest, noise

        if self.legacy or self.validation_fraction == 0:
            return None
        generator = torch.Generator().manual_seed(seed)
        count = observed.sum(1)
        # a fractional number of cells a row: rounded up as often as the fraction says
        wanted = count * self.validation_fraction
        extra = torch.rand(len(count), generator=generator) < wanted - wanted.floor()
        number = torch.minimum(wanted.floor().long() + extra, budget(count, 0.5, min_visible=1))
        held_out = hide_highest(noise(observed.shape, generator=generator), number, observed)
        return held_out if held_out.any() else None

    def _config(self) -> ReMaskerConfig:
        preset = hub_mim_methods()[0].presets[self._preset()]
        return ReMaskerConfig(**{**preset, **self.processor_.config_arguments(), **(self.config or {})})

    def _arguments(self, folder: str, seed: int, rows: int, evaluate: bool) -> Any:
        from transformers import TrainingArguments

        recipe = dict(hub_mim_methods()[0].recipe) if self.legacy else dict(IMPUTATION["arguments"])
        batch = self.batch_size or recipe["per_device_train_batch_size"]
        steps = self.max_steps or (LEGACY_EPOCHS * -(-rows // batch) if self.legacy else self._steps(rows))
        recipe |= {"max_steps": steps, "per_device_train_batch_size": batch}
        recipe["warmup_steps"] = round(recipe["warmup_steps"] * steps)
        given = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        recipe |= {name: value for name, value in given.items() if value is not None}
        self.run_.arguments = dict(recipe)
        every = max(1, steps // 20)
        return TrainingArguments(
            output_dir=folder,
            seed=seed,
            report_to="none",
            save_strategy="no",
            logging_steps=every,
            logging_nan_inf_filter=False,
            eval_strategy="steps" if evaluate else "no",
            eval_steps=every,
            eval_on_start=evaluate,
            per_device_eval_batch_size=4096,
            remove_unused_columns=False,
            prediction_loss_only=True,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            **recipe,
        )

    def _steps(self, rows: int) -> int:
        """Return the steps for a table: a quarter of its cells, within the bounds of the recipe."""
        least, most = IMPUTATION["steps"]
        return max(least, min(most, rows * len(self.processor_.modelled()) // 4))

    def _note(self, trainer: MaskedTrainer, best: KeepBest) -> None:
        run = self.run_
        assert self.model_ is not None
        run.config = json.loads(self.model_.config.to_json_string(use_diff=False))
        run.steps, run.epochs = trainer.state.global_step, round(float(trainer.state.epoch or 0), 4)
        run.history = [
            {k: v for k, v in line.items() if isinstance(v, int | float)} for line in trainer.state.log_history
        ]
        losses = [line["loss"] for line in run.history if "loss" in line]
        run.losses = {"loss": losses[-1]} if losses else {}
        if best.weights:
            run.losses |= {f"best {best.metric}": best.best, "best step": best.step}

    # --- prediction ---

    def _residuals(self, tensors: dict[str, Tensor], held_out: Tensor) -> list[list[float]]:
        """Return, per modelled column, the errors made on the held-out cells, on the model's scale."""
        observed = tensors["observed"] & ~held_out
        predictions, _ = self._predict(tensors | {"observed": observed})
        errors = tensors["values"].double().numpy() - predictions
        spread = []
        for place in range(errors.shape[1]):
            column = errors[held_out[:, place].numpy(), place]
            spread.append(column[:: max(1, len(column) // MAX_RESIDUALS)][:MAX_RESIDUALS].tolist())
        return spread

    @torch.inference_mode()
    def _predict(self, tensors: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return predictions (rows, L) on the model's scale and probabilities (rows, C, K) of categories."""
        parts = [self._predict_batch(tensors, place) for place in torch.arange(len(tensors["observed"])).split(BATCH)]
        values, chances = zip(*parts, strict=True)
        return np.concatenate(values), None if chances[0] is None else np.concatenate(chances)

    def _predict_batch(self, tensors: dict[str, Tensor], rows: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        assert self.model_ is not None
        batch = {name: tensor[rows] for name, tensor in tensors.items()}
        observed = batch["observed"]
        samples = self.mask_samples or (1 if self.legacy else IMPUTATION["mask_samples"])
        total, chances = np.zeros(observed.shape), None
        for sample in range(samples):
            mask = ~observed
            if sample:
                seeds = rows + sample * len(tensors["observed"])
                mask = mask | self.model_.draw_mask(observed, row_seed=seeds)
            output = self.model_(**batch, mask=mask, return_loss=False)
            total += output.predictions.double().numpy() / samples
            if output.logits is not None:
                part = output.logits.softmax(-1).double().numpy() / samples
                chances = part if chances is None else chances + part
        return total, chances

    def _fill(self, frame: pd.DataFrame, random: np.random.RandomState | None) -> pd.DataFrame:
        parts = [self._fill_chunk(part, random) for part in self._chunks(frame)]
        return parts[0] if len(parts) == 1 else pd.concat(parts)

    def _chunks(self, frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
        for start in range(0, max(1, len(frame)), self.chunk_size):
            yield frame.iloc[start : start + self.chunk_size]

    def _fill_chunk(self, frame: pd.DataFrame, random: np.random.RandomState | None) -> pd.DataFrame:
        gaps = frame.isna().to_numpy()
        if not gaps.any():
            return frame.copy()
        rows, columns = gaps.any(1), self.processor_.modelled()
        values, codes = np.zeros((len(frame), len(columns))), np.zeros((len(frame), len(columns)), np.int64)
        if self.model_ is not None:
            tensors = dict(self.processor_(frame[rows]))
            predictions, chances = self._predict(tensors)
            if random is not None:
                predictions = predictions + self._errors(predictions.shape, random)
            values[rows] = predictions
            if chances is not None:
                places = self.model_.config.categorical
                codes[np.ix_(rows, places)] = _choose(chances, random)
        return self.processor_.decode(frame, values, codes)

    def _errors(self, shape: tuple[int, ...], random: np.random.RandomState) -> np.ndarray:
        """Draw an error for each cell from those made on held-out cells of its column."""
        errors = np.zeros(shape)
        for place, column in enumerate(self.processor_.residuals):
            if column:
                errors[:, place] = random.choice(column, shape[0])
        return errors


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread: the matrices of a table's batch are too small to share, and waiting costs more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _choose(chances: np.ndarray, random: np.random.RandomState | None) -> np.ndarray:
    """Return the most likely level (rows, C), or a draw."""
    if random is None:
        return chances.argmax(-1)
    edges = chances.cumsum(-1)
    return (edges < random.random_sample(chances.shape[:2])[..., None] * edges[..., -1:]).sum(-1)


def _is_object(X: Any) -> bool:
    return getattr(np.asarray(X) if isinstance(X, list) else X, "dtype", None) == np.dtype(object)
