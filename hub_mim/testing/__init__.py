"""Check a plugin against the contract that every plugin keeps; see `check_plugin`."""

from hub_mim.testing.kit import CheckResult, check_plugin, plugin_checks
from hub_mim.testing.shared import shared_path

__all__ = ["CheckResult", "check_plugin", "plugin_checks", "shared_path"]
