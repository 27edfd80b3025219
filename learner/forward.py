"""One forward pass: from a micro-batch to the statistics of its tokens, each evaluated at its recorded temperature.

tokens --transformer--> hidden state per node --head, in chunks--> lp at T, entropy at T = 1, reads --> TokenStats
"""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from learner import attention, attention_entropy
from learner.attention_entropy import Watch
from learner.batch import MicroBatch, Share, Trained, micro_batch
from learner.errors import ModelError
from learner.head import ReferenceHead, TeacherHead, TokenHead
from learner.messages import TrainSample
from learner.objective import TokenStats
from learner.objective.observations import AttentionEntropy
from learner.objective.reads import Read

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Nats by which two ways to compute one log-probability may differ through rounding alone.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}


class Policy(nn.Module):
    """A causal language model that answers with log-probabilities and entropies instead of logits.

    Raises ModelError for a model whose logits are not a linear function of its last hidden state.
    """

    def __init__(self, model: "PreTrainedModel", *, layout: str, head_chunk_mib: int) -> None:
        super().__init__()
        self.model = model
        self.head = TokenHead(model.get_output_embeddings(), head_chunk_mib)
        self.forest_layout = False
        expected = self._check_head()
        if layout != "padded":
            self.forest_layout = self._agrees_as_forest(expected)
            if layout == "forest" and not self.forest_layout:
                raise ModelError(
                    f"learner.layout=forest changes the probabilities of {type(model).__name__}: use layout=padded"
                )

    @property
    def device(self) -> torch.device:
        return self.model.device

    def micro_batch(self, trained: Trained, share: Share) -> MicroBatch:
        return micro_batch(trained, share, forest_layout=self.forest_layout, device=self.device)

    def forward(
        self,
        micro: MicroBatch,
        reads: Sequence[Read] = (),
        reference: ReferenceHead | None = None,
        teacher: TeacherHead | None = None,
        observed: Sequence[AttentionEntropy] = (),
        answers: Literal["none", "too", "alone"] = "none",
    ) -> tuple[Tensor, ...]:
        """float32 [seq, tok] nats, 0 in pads: log-probabilities at the recorded temperature, entropies at T = 1.

        Then one for each read; `reference` and `teacher` are for those that read them. Then one for each observation.
        Last float32 [seq, channel] the state before each answer, or that alone, without the head.
        """
        layers = [each.index(self.layers) for each in observed]
        watch = Watch(layers) if layers else None
        hidden = self.hidden_states(micro, watch)
        states = () if answers == "none" else (hidden.index_select(0, micro.answers).float(),)
        if answers == "alone":
            return states
        logprobs, entropies, *values = self.head(hidden, micro.picks, reads, reference, teacher)
        empty = torch.zeros(micro.mask.numel(), dtype=torch.float32, device=hidden.device)
        of_rows = [entropies, *(_per_node(watch.found[layer], micro)[micro.picks.row_nodes] for layer in layers)]
        entropies, *widths = (each.index_select(0, micro.picks.rows) for each in of_rows)
        picked = (logprobs, entropies, *values, *widths)
        return *(empty.index_copy(0, micro.places, each).view(micro.mask.shape) for each in picked), *states

    @torch.no_grad()
    def as_reference(self, micro: MicroBatch) -> ReferenceHead:
        """What this model says of the tokens of a micro-batch, for reads that compare another model with it."""
        return ReferenceHead(hidden=self.hidden_states(micro), weight=self.head.weight, bias=self.head.bias)

    def as_teacher(self, micro: MicroBatch) -> TeacherHead:
        """What this model says of the tokens of a micro-batch after the prompts with feedback in them."""
        if micro.taught is None:  # no sample has feedback: nobody looks at the hidden state
            hidden = self.head.weight.detach().new_zeros(1, self.head.weight.shape[1])
            nothing = ReferenceHead(hidden=hidden, weight=self.head.weight, bias=self.head.bias)
            return TeacherHead(said=nothing, nodes=torch.full_like(micro.picks.tokens, -1))
        return TeacherHead(said=self.as_reference(micro.taught.micro), nodes=micro.taught.nodes)

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    def hidden_states(self, micro: MicroBatch, watch: Watch | None = None) -> Tensor:
        """[node, channel]: what the head reads, one row per distinct prefix; `watch` is filled in on the way."""
        extra = {} if micro.layout is None else {"layout": micro.layout, "position_ids": micro.positions}
        if watch is not None:
            extra["watch"] = watch
        output = self.model.base_model(input_ids=micro.tokens, use_cache=False, **extra)
        return _per_node(output.last_hidden_state.flatten(0, 1), micro)

    def observe(self, wanted: Sequence[AttentionEntropy]) -> None:
        """Get ready to say what attention looks like. Raises ModelError for a layer in which it cannot be seen."""
        if not wanted:
            return
        specimen = _specimen(self.model.config.get_text_config().vocab_size)
        micro = self.micro_batch(specimen, Share(indices=tuple(range(len(specimen.samples))), live=True))
        for each in wanted:
            watch = Watch([each.index(self.layers)])
            try:
                if not self.forest_layout:
                    attention_entropy.register()
                    self.model.set_attn_implementation(attention_entropy.PADDED)
                with torch.no_grad():
                    self.hidden_states(micro, watch)
                reason = "" if watch.found else "it does not attend through transformers' attention interface"
            except (NotImplementedError, TypeError, ValueError) as error:
                reason = str(error)
            if reason:
                raise ModelError(
                    f"attention in layer {each.index(self.layers)} of {type(self.model).__name__} cannot be observed:"
                    f" {reason}; choose another layer, or an algorithm without AttentionEntropy"
                )

    @torch.no_grad()
    def next_token_logits(self, token_ids: tuple[int, ...]) -> Tensor:
        """float32 [vocab]: what the model itself says comes after `token_ids`."""
        ids = torch.tensor([token_ids], device=self.device)
        return self.model(input_ids=ids, use_cache=False).logits[0, -1].float()

    def _check_head(self) -> Tensor:
        """Compare our log-probabilities with the model's own logits; returns the former for three related sequences."""
        trained = _specimen(self.model.config.get_text_config().vocab_size)
        micro = self.micro_batch(trained, Share(indices=tuple(range(len(trained.samples))), live=True))
        with torch.no_grad():
            ours, _ = self(micro)
            for row, sample in enumerate(trained.samples):
                ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], device=self.device)
                prompt, count = len(sample.prompt_ids), len(sample.response_ids)
                theirs = self.model(input_ids=ids, use_cache=False).logits[0, prompt - 1 : -1].float().log_softmax(-1)
                theirs = theirs.gather(1, ids[0, prompt:, None])[:, 0]
                gap = (theirs - ours[row, :count]).abs().max().item()
                if not gap < TOLERANCE[self.model.dtype]:
                    raise ModelError(
                        f"the logits of {type(self.model).__name__} are not head(hidden state): log-probabilities"
                        f" differ by {gap:.3g} nats; architectures that scale or cap their logits cannot be trained yet"
                    )
        return ours

    def _agrees_as_forest(self, expected: Tensor) -> bool:
        """Switch to forest attention and keep it if the same log-probabilities come out."""
        trained = _specimen(self.model.config.get_text_config().vocab_size)
        try:
            attention.register()
            self.model.set_attn_implementation(attention.NAME)
            self.forest_layout = True
            micro = self.micro_batch(trained, Share(indices=tuple(range(len(trained.samples))), live=True))
            with torch.no_grad():
                gap = (self(micro)[0] - expected).abs().max().item()
            if gap < TOLERANCE[self.model.dtype]:
                return True
            reason = f"log-probabilities differ by {gap:.3g} nats"
        except (NotImplementedError, TypeError, ValueError) as error:
            reason = str(error)
        self.forest_layout = False
        self.model.set_attn_implementation("sdpa")
        logger.info("padded rows instead of a forest for %s: %s", type(self.model).__name__, reason)
        return False


def _per_node(values: Tensor, micro: MicroBatch) -> Tensor:
    """[node, ...] of what the transformer says at every position of its flattened output."""
    return values if micro.node_rows is None else values.index_select(0, micro.node_rows)


def token_stats(
    micro: MicroBatch,
    lp: Tensor,
    entropy: Tensor,
    lp_old: Tensor | None,
    needs: frozenset[str | Read],
    lp_ref: Tensor | None = None,
    reads: Mapping[Read | AttentionEntropy, Tensor] | None = None,
    answers: Tensor | None = None,
) -> TokenStats:
    """What the objective sees; `lp_old` None means that the policy has not moved since the batch began."""
    return TokenStats(
        mask=micro.mask,
        group=micro.group,
        advantage=micro.advantage,
        lp=lp,
        lp_old=lp.detach() if lp_old is None else lp_old,
        lp_sampler=micro.lp_sampler,
        temperature=micro.temperature,
        entropy=entropy if "entropy_grad" in needs else entropy.detach(),
        lp_ref=lp_ref,
        reads=reads or {},
        marks=micro.marks,
        answers=answers,
    )


def _specimen(vocabulary: int) -> Trained:
    """Three short sequences that share prefixes, for the checks at start-up."""
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, vocabulary, 5)
    first = generator.integers(0, vocabulary, 40)
    second = np.concatenate([first[:3], generator.integers(0, vocabulary, 9)])
    third = generator.integers(0, vocabulary, 2)

    def sample(group: int, response: np.ndarray) -> TrainSample:
        ones = np.ones(len(response), np.float32)
        return TrainSample(
            group=group,
            prompt_ids=prompt,
            response_ids=response,
            sampler_logprobs=ones,
            temperatures=ones,
            entropies=ones,
            versions=np.zeros(len(response), np.int32),
            reward=0.0,
            unshaped=0.0,
        )

    samples = tuple(sample(0, response) for response in (first, second, third))
    return Trained(samples=samples, advantages=np.zeros(3))
