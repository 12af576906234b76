from hub_mim.testing import plugin_checks

test_conformance = plugin_checks("siglip2")
