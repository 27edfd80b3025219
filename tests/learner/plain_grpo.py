"""GRPO as one writes it in an evening: padded rows, full logits, torch's AdamW. The learner is measured against it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Whole groups of equal size, one after the other; every row is prompt, response, pads. ids, mask: [seq, token]."""

    ids: Tensor
    response: Tensor  # bool
    logprobs: Tensor  # of the response, as drawn; 0 elsewhere
    rewards: Tensor  # [group, member]


class PlainGrpo:
    def __init__(self, path, *, lr: float, eps: float = 0.2, minibatches: int = 1, max_grad_norm: float = 1.0) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.eps, self.minibatches, self.max_grad_norm = eps, minibatches, max_grad_norm

    @torch.no_grad()
    def sample(self, prompts: Tensor, size: int, tokens: int, end: int, reward) -> Rollouts:
        """`size` responses to each prompt [group, token], at temperature 1, until `end` or `tokens`."""
        ids = prompts.repeat_interleave(size, 0)
        response = torch.zeros_like(ids, dtype=torch.bool)
        alive = torch.ones(len(ids), dtype=torch.bool)
        for _ in range(tokens):
            drawn = torch.multinomial(self.model(ids).logits[:, -1].softmax(-1), 1)
            ids, response = torch.cat([ids, drawn], 1), torch.cat([response, alive[:, None]], 1)
            alive = alive & (drawn[:, 0] != end)
        rewards = torch.tensor([float(reward(row[inside])) for row, inside in zip(ids, response, strict=True)])
        logprobs = self.logprobs(ids, response)
        return Rollouts(ids=ids, response=response, logprobs=logprobs, rewards=rewards.view(-1, size))

    def logprobs(self, ids: Tensor, response: Tensor) -> Tensor:
        logprobs = self.model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        return torch.nn.functional.pad(logprobs, (1, 0)).masked_fill(~response, 0.0)

    def step(self, rollouts: Rollouts) -> tuple[float, float, float]:
        """Loss, gradient norm and clipped fraction, means over the minibatches."""
        groups, size = rollouts.rewards.shape
        centred = rollouts.rewards - rollouts.rewards.mean(1, keepdim=True)
        advantages = (centred / (rollouts.rewards.std(1, keepdim=True) + 1e-6)).flatten()
        with torch.no_grad():
            old = self.logprobs(rollouts.ids, rollouts.response)
        seen = []
        for part in torch.arange(groups * size).view(groups, size).tensor_split(self.minibatches):
            rows = part.flatten()
            mask = rollouts.response[rows]
            ratio = (self.logprobs(rollouts.ids[rows], mask) - old[rows]).exp()
            a = advantages[rows, None]
            free, bound = -a * ratio, -a * ratio.clamp(1 - self.eps, 1 + self.eps)
            per_token = torch.maximum(free, bound) * mask
            loss = (per_token.sum(1) / mask.sum(1)).mean()  # every response counts the same
            self.optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            self.optimizer.step()
            seen.append((loss.item(), norm.item(), ((bound > free) & mask).sum().item() / mask.sum().item()))
        return tuple(sum(values) / len(seen) for values in zip(*seen, strict=True))
