"""One DeepSpeed rank: gradients in, weights stepped; checkpoints of exactly that. How DeepSpeed behaves is known here.

DeepSpeed divides gradients by the number of ranks; the objective's shares add up, so the loss is multiplied by it.
What its optimizers hold of a parameter is known in masters.py, what a checkpoint looks like in checkpoint.py.
"""

import json
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from learner import checkpoint
from learner.config import LearnerConfig
from learner.masters import KINDS, Masters
from learner.writing import Writing

STEPS = "optimizer_steps"  # beside what the caller saves
BUFFER = "buffer"


def join(rank: int, world_size: int, master_addr: str, master_port: int) -> torch.device:
    """Enter the process group of all ranks; returns this rank's device."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR=master_addr,
        MASTER_PORT=str(master_port),
    )
    # Ray shows an actor only the GPUs it reserved, so the first visible one is this rank's own.
    os.environ["LOCAL_RANK"] = "0"
    cuda = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    # On CPU DeepSpeed would compile a shared-memory all-reduce at start-up (40-70 s, and a killed compilation leaves a
    # lock that hangs the next start); only its inference path calls it, training goes through gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False)
    return torch.device("cuda", 0) if cuda else torch.device("cpu")


class Engine:
    """A DeepSpeed engine around the policy, stepped once per any number of micro-batches."""

    def __init__(self, policy: nn.Module, config: LearnerConfig, world_size: int) -> None:
        self.config = config
        self.world_size = world_size
        matrices = [p for p in policy.parameters() if p.requires_grad and p.ndim >= 2]
        vectors = [p for p in policy.parameters() if p.requires_grad and p.ndim < 2]
        # torch's own AdamW: DeepSpeed's would be compiled at start-up. `fused` is a plain kernel on CPU and GPU.
        optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "weight_decay": decay}
                for parameters, decay in ((matrices, config.weight_decay), (vectors, 0.0))
                if parameters  # an adapter may be of matrices alone
            ],
            lr=config.lr,
            betas=config.betas,
            fused=True,
        )
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=policy, optimizer=optimizer, config=self._deepspeed_config()
        )
        self.masters = Masters(self.engine, self._stage)

    def _deepspeed_config(self) -> dict[str, Any]:
        on_cpu = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        return {
            "train_micro_batch_size_per_gpu": 1,  # samples are packed: DeepSpeed only counts with this number
            "gradient_accumulation_steps": 1,  # the boundary is set by hand, see `accumulate`
            "gradient_clipping": 0.0 if self._clips_itself else self.config.max_grad_norm,
            "zero_optimization": {
                "stage": self._stage,
                **({"offload_optimizer": on_cpu} if self.config.offload_optimizer else {}),
                **({"offload_param": on_cpu} if self.config.offload_parameters else {}),
            },
            "bf16": {"enabled": self.config.dtype == "bfloat16"},
            # Micro-batches add up in float32: of many small ones, a bfloat16 sum loses the last.
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }

    @property
    def _stage(self) -> int:
        # DeepSpeed's ZeRO-0 adds gradients up in bfloat16 and loses small ones; its ZeRO-2, which on one rank divides
        # nothing, adds them up in float32. Several ranks that would rather talk less often have ZeRO-1.
        return 2 if self.config.zero_stage == 0 and self.config.dtype == "bfloat16" else self.config.zero_stage

    @property
    def _clips_itself(self) -> bool:
        # At ZeRO-0 DeepSpeed clips, but does not say what the norm was.
        return self._stage == 0

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.engine(*inputs, **named)

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of one micro-batch's share; after the last, gradients of all ranks are combined."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.world_size)
        if not last:
            self.engine.step()

    def step(self, lr: float) -> float:
        """Clip and take the optimizer step; returns the global gradient norm before clipping, which may not be finite.

        A step with a norm that is not finite leaves the weights as they are.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._clips_itself:
            norm = float(nn.utils.clip_grad_norm_(self.engine.module.parameters(), self.config.max_grad_norm))
            if not math.isfinite(norm):
                return norm
            self.engine.step()
            return norm
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def gathered(self) -> AbstractContextManager:
        """Inside, every parameter is whole on every rank, which ZeRO-3 otherwise splits; all ranks enter together."""
        if self._stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(list(self.engine.module.parameters()))

    def save(self, folder: Path, state: Mapping[str, Any], writing: Writing) -> None:
        """Write `state`, as JSON, and everything that is trained; all ranks call it, rank 0 writes."""
        trained, buffers, shapes = self._trained(), self._buffers(), self._shapes()
        values = (
            self.masters.whole(trained[name], kind) if kind in KINDS else buffers[name]
            for kind, _, name in (key.partition("/") for key in shapes)
        )
        if torch.distributed.get_rank() > 0:
            for _ in values:  # each is gathered from all ranks
                pass
            return
        text = json.dumps({**state, STEPS: self.masters.steps}, indent=1)
        held = writing.hold_each(values)
        writing.add(folder / checkpoint.TENSORS, lambda path: checkpoint.write_tensors(path, shapes, held))
        writing.add(folder / checkpoint.STATE, lambda path: path.write_text(text))

    def load(self, folder: Path) -> dict[str, Any]:
        """The `state` given to `save`, by any number of ranks at any ZeRO stage.

        Raises CheckpointError for a folder without a checkpoint, or with one of other parameters.
        """
        buffers = self._buffers()
        with checkpoint.reading(folder) as (state, tensors):
            checkpoint.check_shapes(folder, tensors, self._shapes())
            for name, parameter in self._trained().items():
                for kind in KINDS:
                    self.masters.put(parameter, kind, tensors.get_tensor(f"{kind}/{name}"))
            for name, buffer in buffers.items():
                buffer.copy_(tensors.get_tensor(f"{BUFFER}/{name}"))
        self.masters.settle()
        self.masters.steps = state.pop(STEPS)
        return state

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.engine.module.named_parameters() if one.requires_grad}

    def _buffers(self) -> dict[str, Tensor]:
        """What a model counts beside its parameters; none in most."""
        kept = self.engine.module.state_dict().keys()
        return {name: one for name, one in self.engine.module.named_buffers() if name in kept}

    def _shapes(self) -> dict[str, Tensor]:
        """Names, shapes and types of all that a checkpoint holds, in the order of the file: wide types first."""
        shapes = {
            f"{kind}/{name}": torch.empty(getattr(one, "ds_shape", one.shape), dtype=torch.float32, device="meta")
            for name, one in self._trained().items()
            for kind in KINDS
        }
        shapes |= {f"{BUFFER}/{name}": one.to("meta") for name, one in self._buffers().items()}
        return dict(sorted(shapes.items(), key=lambda one: -one[1].element_size()))
