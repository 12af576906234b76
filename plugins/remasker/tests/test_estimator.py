"""scikit-learn's own checks of an estimator, on the imputer."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from hub_mim_remasker import ReMaskerImputer

EXPECTED: dict[str, str] = {}


@parametrize_with_checks(
    [ReMaskerImputer(preset="tiny", max_steps=2, random_state=0)], expected_failed_checks=lambda _: EXPECTED
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
