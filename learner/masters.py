"""What the optimizer holds of every trained parameter, whole: float32 weights and both moments of Adam.

DeepSpeed keeps them as they are (ZeRO-0), or flattened and divided among the ranks in one of three ways (ZeRO-1 to 3).
Here is the one place that knows which. Only a checkpoint needs them whole, one at a time.
"""

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")  # of torch.optim.AdamW
KINDS = (WEIGHT, *MOMENTS)


class Masters:
    """The optimizer's state by parameter. All ranks call every method together, in the same order.

    The moments exist from the start, as zeros: memory that is missing is missed before the first step.
    """

    def __init__(self, engine: deepspeed.DeepSpeedEngine, stage: int) -> None:
        self._engine = engine
        self._stage = stage
        adam = engine.basic_optimizer
        held = [one for group in adam.param_groups for one in group["params"]]
        if stage == 3:  # the groups are empty between steps
            held = engine.optimizer.fp32_partitioned_groups_flat
        for one in held:
            adam.state[one] = {name: torch.zeros_like(one) for name in MOMENTS}
            adam.state[one]["step"] = torch.zeros((), dtype=torch.float32, device=one.device)
        self._states = [adam.state[one] for one in held]
        if stage in (1, 2):
            engine.optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def steps(self) -> float:
        """Optimizer steps taken; a batch without anything to learn from takes none."""
        return self._states[0]["step"].item()

    @steps.setter
    def steps(self, value: float) -> None:
        for state in self._states:
            state["step"].fill_(value)

    def whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """float32, in the shape of the parameter, on every rank."""
        if self._stage == 0:
            return parameter.detach() if kind == WEIGHT else self._engine.basic_optimizer.state[parameter][kind]
        if kind == WEIGHT:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, kind)

    def put(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """Keep this rank's part of `value`; the model computes with new weights after `settle`."""
        value = value.to(parameter.device)
        if self._stage == 0:
            self.whole(parameter, kind).copy_(value)
        elif kind == WEIGHT:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)
        if self._stage == 3 and kind == WEIGHT:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(value)

    def settle(self) -> None:
        """After the last `put`: what the model computes with is what the optimizer holds."""
        if self._stage in (1, 2):
            self._engine.optimizer.update_lp_params()
