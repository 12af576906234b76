"""Rows with one wrong column, for the processor of every installed method; the kit's `check_wrong_rows` for the record."""

import pytest
from record import counted

from hub_mim import plugins
from hub_mim.testing.checks.rows import wrong_row_findings, wrong_rows
from hub_mim.testing.subject import Subject

pytestmark = pytest.mark.nightly  # each plugin's own tests have the check


@pytest.mark.parametrize("name", sorted(plugins.methods()))
def test_wrong_rows(name):
    with counted("wrong rows", f"rows of {name}") as count:
        subject = Subject(name)
        count(len([*wrong_rows(subject.rows[:2][-1])]))
        assert [*wrong_row_findings(subject)] == []
