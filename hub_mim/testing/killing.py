"""For scripts of tests: a training that kills its own process, as a machine that fails does."""

import os
import signal
from typing import Any

import hub_mim.trainer
from hub_mim.callbacks import Flow


def kill_after(step: int) -> None:
    """Let the main process of the trainings of this process die by SIGKILL at the end of a step; none where it is below 0."""

    class Killing(Flow):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == step and state.is_world_process_zero:
                os.kill(os.getpid(), signal.SIGKILL)

    hub_mim.trainer.Flow = Killing  # type: ignore[misc]
