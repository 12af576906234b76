"""The best linear predictor for any set of visible cells: a multivariate normal fitted to a table with gaps.

A map with fixed weights cannot be right for every set of visible cells; the conditional mean of a normal distribution is
(Little and Rubin, "Statistical Analysis with Missing Data", section 11.2, EM for the normal model). Off-diagonal
covariances are shrunk by the factor that predicts held-out cells best, so that columns which tell nothing of each other
are predicted by their means.
"""

import numpy as np

MAX_COLUMNS = 128  # solving a system a row costs too much beyond; the covariance is kept in the configuration
MAX_ROWS = 5_000
SHRINKAGE = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)


def fit_gaussian(
    values: np.ndarray, observed: np.ndarray, *, seed: int = 0, rounds: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate mean and shrunk covariance of numeric columns from the observed cells.

    Args:
        values: float (rows, L); what stands at missing cells does not matter.
        observed: bool (rows, L).
        seed: draws rows of larger tables, and the cells held out to choose the shrinkage.
        rounds: of EM at most.
    Returns:
        Mean (L,) and covariance (L, L), float64.
    """
    random = np.random.default_rng(seed)
    if len(values) > MAX_ROWS:
        chosen = random.choice(len(values), MAX_ROWS, replace=False)
        values, observed = values[chosen], observed[chosen]
    values = values.astype(np.float64)
    held_out = observed & (random.random(observed.shape) < 0.1)
    mean, covariance = _em(values, observed & ~held_out, rounds)
    errors = [
        np.square(_conditional(values, observed & ~held_out, mean, shrink(covariance, factor)) - values)[held_out].sum()
        for factor in SHRINKAGE
    ]
    best = SHRINKAGE[len(errors) - 1 - int(np.argmin(errors[::-1]))]  # of equals the strongest
    mean, covariance = _em(values, observed, rounds)
    return mean, shrink(covariance, best)


def shrink(covariance: np.ndarray, factor: float) -> np.ndarray:
    """Pull the off-diagonal entries to 0 by a factor in [0, 1]."""
    return (1 - factor) * covariance + factor * np.diag(np.diag(covariance))


def _em(values: np.ndarray, observed: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit mean and covariance; rows with the same gaps are treated together."""
    count = np.maximum(observed.sum(0), 1)
    mean = np.where(observed, values, 0).sum(0) / count
    spread = np.where(observed, (values - mean) ** 2, 0).sum(0) / count + 1e-6
    covariance = np.diag(spread)
    patterns, which = np.unique(observed, axis=0, return_inverse=True)
    groups = [np.flatnonzero(which.ravel() == group) for group in range(len(patterns))]
    for _ in range(rounds):
        filled, extra = np.where(observed, values, mean), np.zeros_like(covariance)
        for seen, rows in zip(patterns, groups, strict=True):
            hidden = ~seen
            if not hidden.any():
                continue
            weights = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, hidden)])
            filled[np.ix_(rows, hidden)] = mean[hidden] + (values[np.ix_(rows, seen)] - mean[seen]) @ weights
            rest = covariance[np.ix_(hidden, hidden)] - covariance[np.ix_(hidden, seen)] @ weights
            extra[np.ix_(hidden, hidden)] += len(rows) * rest
        new_mean = filled.mean(0)
        centred = filled - new_mean
        # a prior of one row with uncorrelated columns keeps the matrix invertible
        new = (centred.T @ centred + extra + np.diag(spread)) / (len(values) + 1)
        change = np.abs(new - covariance).max() / np.abs(covariance).max()
        mean, covariance = new_mean, (new + new.T) / 2
        if change < 1e-4:
            break
    return mean, covariance


def _conditional(values: np.ndarray, observed: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the conditional mean of every cell given the observed ones of its row."""
    seen = observed.astype(np.float64)
    system = seen[:, :, None] * covariance * seen[:, None, :] + np.eye(len(mean)) * (1 - seen)[:, :, None]
    weights = np.linalg.solve(system, ((values - mean) * seen)[:, :, None])[:, :, 0]
    return mean + weights @ covariance
