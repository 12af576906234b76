"""MyMethod keeps the contract of hub-mim's plugins."""

from hub_mim.testing import plugin_checks

test_conformance = plugin_checks("mymethod")
