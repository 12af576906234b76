"""Run the checks: without pytest (`check_plugin`), or as one pytest item each (`plugin_checks`)."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hub_mim.testing import checks
from hub_mim.testing.subject import SkipCheck, Subject

Status = Literal["passed", "failed", "skipped", "expected"]


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check; `expected` is a failure that was announced with a reason."""

    check: str
    status: Status
    message: str = ""
    seconds: float = 0.0


def check_plugin(
    name: str,
    on_fail: Literal["raise", "warn"] | None = "raise",
    callback: Callable[[CheckResult], None] | None = None,
    fast: bool = False,
) -> list[CheckResult]:
    """Run every check that applies to a method.

    Args:
        name: of the method.
        on_fail: "raise" an AssertionError at the first failure, "warn", or None to go on quietly.
        callback: called with each result as it comes.
        fast: leave out checks that start processes or train for long.
    Returns:
        One result a check.
    Raises:
        ValueError: no such method.
        AssertionError: a check failed, with `on_fail="raise"`.
    """
    subject = Subject(name)
    results = []
    for check in checks.ALL:
        if fast and check in checks.SLOW:
            continue
        result = run_check(check, subject)
        results.append(result)
        if callback is not None:
            callback(result)
        if result.status == "failed" and on_fail is not None:
            text = f"{name}: {result.check}: {result.message}"
            if on_fail == "raise":
                raise AssertionError(text)
            warnings.warn(text, stacklevel=2)
    return results


def run_check(check: Callable[[Subject], None], subject: Subject) -> CheckResult:
    """Run one check and tell how it went; an error of the plugin is a failure of the check."""
    started = time.monotonic()
    status: Status = "passed"
    message = ""
    try:
        if subject.method.native and check not in checks.NATIVE:
            raise SkipCheck("the classes are transformers' own, tested there")
        check(subject)
    except SkipCheck as reason:
        status, message = "skipped", str(reason)
    except AssertionError as error:
        status, message = "failed", str(error) or "assertion failed"
    except Exception as error:  # whatever a plugin raises is a finding, not an error of the kit
        status, message = "failed", f"{type(error).__name__}: {error}"
    return CheckResult(check.__name__, status, message, time.monotonic() - started)


def plugin_checks(name: str, expected_failures: Mapping[str, str] | None = None, *, fast: bool = True) -> Any:
    """Return a test function that pytest runs once per check.

    Args:
        name: of the method.
        expected_failures: check -> reason; strict: a check that passes although listed fails the test.
        fast: mark the checks that start processes or train for long as slow.
    Raises:
        ValueError: `expected_failures` names a check that does not exist.
    """
    import pytest

    expected = dict(expected_failures or {})
    unknown = sorted(set(expected) - {check.__name__ for check in checks.ALL})
    if unknown:
        raise ValueError(f"expected_failures names {unknown}, which are no checks of the kit")

    def marks(check: Any) -> list[Any]:
        slow = [pytest.mark.slow] if fast and check in checks.SLOW else []
        reason = expected.get(check.__name__)
        return slow + ([pytest.mark.xfail(reason=reason, strict=True)] if reason else [])

    @pytest.mark.parametrize("check", [pytest.param(each, id=each.__name__, marks=marks(each)) for each in checks.ALL])
    def test_conformance(check: Callable[[Subject], None]) -> None:
        result = run_check(check, Subject(name))
        if result.status == "skipped":
            pytest.skip(result.message)
        assert result.status == "passed", result.message

    return test_conformance
