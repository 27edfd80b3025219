"""One DeepSpeed rank: gradients in, weights stepped; checkpoints of exactly that. All of DeepSpeed's behaviour is here.

DeepSpeed divides gradients by the number of ranks; the objective's shares add up, so the loss is multiplied by it.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from learner.config import LearnerConfig
from learner.errors import CheckpointError

logger = logging.getLogger(__name__)

TAG = "state"  # name of the folder DeepSpeed makes inside a checkpoint
TRAINED = "temper_trained"  # among what is saved: the parameters of an adapter


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

    def _deepspeed_config(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,  # samples are packed: DeepSpeed only counts with this number
            "gradient_accumulation_steps": 1,  # the boundary is set by hand, see `accumulate`
            "gradient_clipping": 0.0 if self._clips_itself else self.config.max_grad_norm,
            "zero_optimization": {
                "stage": self.config.zero_stage,
                "stage3_gather_16bit_weights_on_model_save": True,
            },
            "bf16": {"enabled": self.config.dtype == "bfloat16"},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }

    @property
    def _clips_itself(self) -> bool:
        # At ZeRO-0 in float32 DeepSpeed clips, but does not say what the norm was.
        return self.config.zero_stage == 0 and self.config.dtype == "float32"

    def __call__(self, *inputs: Any) -> Any:
        return self.engine(*inputs)

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of one micro-batch's share; after the last, gradients of all ranks are combined."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.world_size)
        if not last:
            self.engine.step()

    def step(self, lr: float) -> float:
        """Clip and take the optimizer step; returns the global gradient norm before clipping, which may not be finite.

        A step with a non-finite norm leaves the weights as they are where the norm is known before (ZeRO-0, float32).
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
        if self.config.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(list(self.engine.module.parameters()))

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write `state` and everything that is trained; frozen weights are those of the model folder."""
        state = state | {TRAINED: self._trained_shapes()}
        with _only_trained(self.engine.module):
            self.engine.save_checkpoint(
                str(folder), tag=TAG, client_state=state, exclude_frozen_parameters=self._has_frozen
            )

    def load(self, folder: Path) -> dict[str, Any]:
        """The `state` given to `save`. Raises CheckpointError for a folder without a checkpoint that fits."""
        if not (folder / TAG).is_dir():
            raise CheckpointError(f"{folder} holds no learner checkpoint: it has no folder named {TAG!r}")
        try:
            path, state = self.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not self._has_frozen)
        except (OSError, RuntimeError, KeyError, ValueError, AssertionError) as error:
            raise CheckpointError(
                f"the learner checkpoint in {folder} does not fit this model or these {self.world_size} ranks"
                f" with ZeRO-{self.config.zero_stage}: {error}"
            ) from error
        if path is None:
            raise CheckpointError(f"DeepSpeed found nothing to load in {folder / TAG}")
        self._check_trained(folder, state.pop(TRAINED, {}))
        return state

    @property
    def _has_frozen(self) -> bool:
        return not all(parameter.requires_grad for parameter in self.engine.module.parameters())

    def _trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of an adapter's parameters, by name; none where everything is trained, which DeepSpeed checks by itself."""
        if not self._has_frozen:
            return {}
        named = self.engine.module.named_parameters()
        return {name: tuple(getattr(one, "ds_shape", one.shape)) for name, one in named if one.requires_grad}

    def _check_trained(self, folder: Path, saved: dict[str, tuple[int, ...]]) -> None:
        here = self._trained_shapes()
        if saved != here:
            different = sorted(name for name in saved.keys() | here.keys() if saved.get(name) != here.get(name))
            raise CheckpointError(
                f"the learner checkpoint in {folder} is of another adapter, or of none: {len(different)} trained"
                f" parameters differ, such as {different[0]} of shape {saved.get(different[0])} there and"
                f" {here.get(different[0])} here; resume with the learner.adapter it was made with"
            )


@contextmanager
def _only_trained(module: nn.Module) -> Iterator[None]:
    """Inside, the module's state leaves frozen parameters out, under every name they have (a head has two)."""

    def leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                state.pop(prefix + name, None)

    handle = module.register_state_dict_post_hook(leave_out)
    try:
        yield
    finally:
        handle.remove()
