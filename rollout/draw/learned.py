"""IntroLLM's learned temperature: a head on the last hidden state decides at each token to keep or to change it.

    hidden [rows, d] --TemperatureHead--> u [rows, 3] --draw_actions--> (change, z) --chain--> tau [rows]
                                              '------- action_logprob(u, change, z): what the learner maximises

Worker and learner share the head's module and these functions. The action of every token (change, tau) is recorded and
never drawn again: the token phase divides by the stored tau, the head phase evaluates the stored action, whose z is
`z_of(tau)` on both sides.

Source  IntroLLM, arXiv:2602.13035, grade A'-third. The paper's bounds, epsilon and start are not known; those are ours.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_PREFIX = "temperature_head."  # of the head's tensors, in weight updates
# In a model folder, in a folder of its own: vLLM and others load every *.safetensors beside config.json into the model.
HEAD_FILE = Path("temperature_head") / "head.safetensors"
Z_MARGIN = 1e-4  # z stays this far from 0 and 1, where a U-shaped Beta has infinite density
RARELY = -2.0  # initial logit of a change: the first policy changes its temperature at 12 % of the tokens (ours)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The constants of the learned policy; its weights are the head's.

    Rule    c ~ Bernoulli(sigmoid(u_c)); c = 0: tau_t = tau_{t-1}; c = 1: z ~ Beta(softplus(u_a) + epsilon,
            softplus(u_b) + epsilon), tau_t = tau_min + z (tau_max - tau_min); before the first token tau = tau_0
    Source  IntroLLM, arXiv:2602.13035, grade A'-third (rule); constants ours.
    Units   tau_*: divisors of the logits, > 0.  epsilon: > 0, an offset of the Beta's shapes.
    Traps   tau_t depends on tau_{t-1}: the K + 1 rows of a speculative step are a chain (see `chain`). Not callable
            with entropies: `needs` says "hidden".
    """

    name: ClassVar[str] = "learned"
    needs: ClassVar[frozenset[str]] = frozenset({"hidden"})
    tau_min: float = 0.3
    tau_max: float = 1.5
    tau_0: float = 1.0
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if not 0.0 < self.tau_min < self.tau_max < math.inf:
            raise ValueError(f"Learned wants 0 < tau_min < tau_max, got {self.tau_min} and {self.tau_max}")
        if not (math.isfinite(self.tau_0) and self.tau_0 > 0.0):
            raise ValueError(f"Learned.tau_0 is a finite number > 0, got {self.tau_0}")
        if not (math.isfinite(self.epsilon) and self.epsilon > 0.0):
            raise ValueError(f"Learned.epsilon is a finite number > 0, got {self.epsilon}")

    def going_on(self, tau: float) -> "Learned":
        """The same policy for a response that goes on after a token drawn at `tau`."""
        return dataclasses.replace(self, tau_0=tau)

    def __call__(self, entropies: Tensor) -> Tensor:
        raise TypeError("the learned policy acts on hidden states, not entropies: see rollout/draw/learned.py")


class TemperatureHead(nn.Module):
    """hidden [..., d] -> u [..., 3] = (u_c, u_a, u_b): W2 relu(W1 h + b1) + b2 with W1 [d/2, d] and W2 [3, d/2].

    The hidden state is detached: in the head's phase of the coordinate ascent the policy is fixed (the paper does not
    say; ours). W2 starts at 0, so every token starts at u = (-2, 0, 0) whatever its hidden state (ours).
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size // 2)
        self.outer = nn.Linear(hidden_size // 2, 3)
        nn.init.zeros_(self.outer.weight)
        with torch.no_grad():
            self.outer.bias.copy_(torch.tensor([RARELY, 0.0, 0.0]))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden.detach().to(self.inner.weight.dtype)
        return self.outer(functional.relu(self.inner(hidden)))


def beta_shapes(u: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """u [..., 3] -> the two shapes of the Beta, [...] each, > 0. The offset is small, so U-shaped Betas are allowed."""
    shapes = functional.softplus(u[..., 1:].float()) + epsilon
    return shapes[..., 0], shapes[..., 1]


def draw_actions(u: Tensor, policy: Learned, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """u [...,3] -> change [...] bool, z [...] float32 in [1e-4, 1 - 1e-4]; z is drawn where change is false as well.

    z = G_a / (G_a + G_b) of two Gamma variables, computed from their logarithms: G_a has the law of G_{a+1} U^(1/a),
    which for the small shapes of a U-shaped Beta underflows to 0 / 0 in any other form.
    """
    change = torch.rand(u.shape[:-1], generator=generator, device=u.device) < u[..., 0].float().sigmoid()
    shapes = torch.stack(beta_shapes(u, policy.epsilon), -1).double()
    uniforms = torch.rand(shapes.shape, generator=generator, device=u.device, dtype=torch.float64)
    log_gammas = torch._standard_gamma(shapes + 1.0, generator=generator).log() + (1.0 - uniforms).log() / shapes
    z = (log_gammas[..., 0] - log_gammas[..., 1]).sigmoid()
    return change, z.clamp(Z_MARGIN, 1.0 - Z_MARGIN).float()


def chain(change: Tensor, z: Tensor, previous: Tensor, policy: Learned) -> Tensor:
    """change, z [requests, steps], previous tau [requests] -> tau [requests, steps] float32, each step after the other.

    A step that does not change takes the tau of the last step that did, or `previous` if none did. In a speculative
    step the rows after the first rejection are not emitted: carry on from the tau of the last emitted row.
    """
    proposed = policy.tau_min + z * (policy.tau_max - policy.tau_min)
    steps = torch.arange(change.shape[1], device=change.device)
    last_change = torch.where(change, steps, -1).cummax(1).values
    return torch.where(last_change >= 0, proposed.gather(1, last_change.clamp_min(0)), previous.unsqueeze(1))


def z_of(tau: Tensor, policy: Learned) -> Tensor:
    """The z of a recorded tau, float32 in [1e-4, 1 - 1e-4]: the inverse of tau = tau_min + z (tau_max - tau_min).

    Rounding tau to float32 moves a z near its margin by up to 1e-3 of itself, so the logprob of an action is by
    definition that of its recorded tau: sampler and learner both ask here.
    """
    z = (tau.double() - policy.tau_min) / (policy.tau_max - policy.tau_min)
    return z.clamp(Z_MARGIN, 1.0 - Z_MARGIN).float()


def action_logprob(u: Tensor, change: Tensor, z: Tensor, policy: Learned) -> Tensor:
    """log pi_phi [...] in nats of recorded actions; the gradient reaches `u` only.

    Rule    log P(c) + c log Beta(z; a, b); the Jacobian of z -> tau is constant and cancels in every ratio.
    Traps   z enters clamped to [1e-4, 1 - 1e-4], as it was recorded; where change is false it is not read.
    """
    u_change = u[..., 0].float()
    log_change = torch.where(change, functional.logsigmoid(u_change), functional.logsigmoid(-u_change))
    a, b = beta_shapes(u, policy.epsilon)
    read = torch.where(change, z, 0.5).clamp(Z_MARGIN, 1.0 - Z_MARGIN)
    log_beta = (a - 1.0) * read.log() + (b - 1.0) * (-read).log1p() - (a.lgamma() + b.lgamma() - (a + b).lgamma())
    return log_change + torch.where(change, log_beta, 0.0)
