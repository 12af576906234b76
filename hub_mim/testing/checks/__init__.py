"""The checks, one plain function each: takes a `Subject`, raises AssertionError with what to do, or `SkipCheck`."""

from hub_mim.testing.checks import (
    configuration,
    evidence,
    masking,
    modeling,
    numerics,
    packaging,
    processes,
    processing,
    rows,
    training,
    values,
)

MODULES = (
    packaging,
    configuration,
    processing,
    rows,
    masking,
    modeling,
    values,
    numerics,
    training,
    processes,
    evidence,
)
ALL = tuple(value for module in MODULES for name, value in list(vars(module).items()) if name.startswith("check_"))
BY_NAME = {check.__name__: check for check in ALL}
# what applies where the classes are transformers' own
NATIVE = (
    packaging.check_every_string_resolves,
    packaging.check_metadata,
    configuration.check_config_round_trip,
    processing.check_processor_round_trip,
    processing.check_processor_leaves_rows_alone,
    processing.check_processor_stored_rows,
    rows.check_wrong_rows,
    training.check_pretrains,
    evidence.check_card,
)
# what starts processes, builds or compiles
SLOW = (
    packaging.check_import_order,
    packaging.check_every_module_first,
    packaging.check_wheel,
    numerics.check_compile,
    numerics.check_export,
    processes.check_resume,
    processes.check_two_processes,
)
