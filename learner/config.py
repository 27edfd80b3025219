"""LearnerConfig: every knob of the learner service, its default and its unit, written once."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from learner.adapters import Adapter
from learner.drafter.online import OnlineDrafter


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """How weights are updated; the objective has its own configuration. Raises ValueError for impossible values."""

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0  # of matrices; biases and norms never decay
    warmup_steps: int = 0  # lr rises linearly over these steps ...
    final_lr_fraction: float = 1.0  # ... and then falls to this fraction of lr at the last step: 1 is constant
    schedule: Literal["linear", "cosine"] = "linear"  # the line along which it falls
    max_grad_norm: float = 1.0  # global L2 norm over all parameters and ranks
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = False  # its weights and moments lie, and are stepped, in the host's memory: ZeRO-1 to 3
    offload_parameters: bool = False  # so do the weights that a layer does not need just now: ZeRO-3
    dtype: Literal["float32", "bfloat16"] = "float32"  # of weights and activations; the optimizer keeps float32
    ranks: int = 1  # DeepSpeed processes; a batch is divided among them by the work it makes (learner/balance.py)
    micro_batch_tokens: int = 2048  # computed tokens per forward: prefixes that samples share count once
    activation_checkpointing: bool = False  # layers compute their activations twice and keep those of one layer only
    adapter: Any = None  # an Adapter of learner.adapters: it alone is trained; None: all parameters are
    drafter: Any = None  # an OnlineDrafter: the drafter is trained too, beside the policy; None: it stays as it is
    copy_checkpoints: bool = True  # into rank 0's host memory, and training goes on while they are written
    minibatches: int = 1  # optimizer steps per train batch; above 1, one extra pass without gradient gives lp_old
    # "forest" computes each distinct prefix of a micro-batch once, "padded" is one row per sequence; "auto" takes the
    # first where a check at start-up finds both equal for this architecture.
    layout: Literal["auto", "forest", "padded"] = "auto"
    head_chunk_mib: int = 256  # of float32 [tokens, vocabulary] there are at most two blocks, each at most so large
    # Nats, k3 estimate of KL(engine || learner) per token. Engine and learner agree to 1e-9 and one update at a
    # sensible learning rate moves it by about 1e-3; weights that never arrived or a lost temperature exceed 1e-1.
    mismatch_kl_limit: float = 0.2
    threads: int = 1  # CPU threads per rank
    num_gpus: float = 0.0  # GPUs Ray reserves per rank
    start_deadline_s: float = 600.0
    step_deadline_s: float = 1800.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # YAML knows lists only
        for name in ("ranks", "micro_batch_tokens", "minibatches", "head_chunk_mib", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.{name} is at least 1, got {getattr(self, name)}")
        for name in ("lr", "max_grad_norm", "mismatch_kl_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"learner.{name} is positive, got {getattr(self, name)}")
        if not (len(self.betas) == 2 and all(0.0 <= beta < 1.0 for beta in self.betas)):
            raise ValueError(f"learner.betas are two numbers in [0, 1), got {self.betas}")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(
                f"learner.weight_decay and learner.warmup_steps are at least 0, got {self.weight_decay}"
                f" and {self.warmup_steps}"
            )
        if not 0.0 <= self.final_lr_fraction <= 1.0:
            raise ValueError(f"learner.final_lr_fraction is in [0, 1], got {self.final_lr_fraction}")
        for name, known in (
            ("zero_stage", (0, 1, 2, 3)),
            ("dtype", ("float32", "bfloat16")),
            ("layout", ("auto", "forest", "padded")),
            ("schedule", ("linear", "cosine")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"learner.{name} is one of {known}, got {getattr(self, name)!r}")
        for name, stages in (("offload_optimizer", (1, 2, 3)), ("offload_parameters", (3,))):
            if getattr(self, name) and self.zero_stage not in stages:
                raise ValueError(
                    f"learner.{name}=true needs learner.zero_stage to be one of {stages}, got {self.zero_stage}"
                )
        if self.adapter is not None and not isinstance(self.adapter, Adapter):
            raise ValueError(
                f"learner.adapter is null or an adapter of learner.adapters, got {type(self.adapter).__name__}"
            )
        if self.drafter is not None and not isinstance(self.drafter, OnlineDrafter):
            raise ValueError(f"learner.drafter is null or an OnlineDrafter, got {type(self.drafter).__name__}")
        if self.zero_stage == 3 and getattr(self.adapter, "shares_parameters", False):
            raise ValueError(
                f"learner.adapter={type(self.adapter).__name__} has parameters that several layers read, which ZeRO-3"
                " does not gather: set learner.zero_stage to 2 or less"
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]

    def lr_at(self, step: int, total_steps: int) -> float:
        """Learning rate of 0-based `step`: linear over `warmup_steps`, then by `schedule` to final_lr_fraction * lr."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, total_steps - 1 - self.warmup_steps))
        if self.schedule == "cosine":
            progress = (1.0 - math.cos(math.pi * progress)) / 2.0
        return self.lr * (1.0 + (self.final_lr_fraction - 1.0) * progress)
