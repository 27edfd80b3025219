"""DiffAdapt at work: one look at the prompt, then every response of the group is drawn the way its difficulty asks for.

prompt + announcement --Resources.hidden--> probe --> Way --> opener + draw --cut by length?--> cue + draw
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation
from rollout.errors import RolloutError
from rollout.messages import FinishReason, GroupRequest, Rollout
from rollout.strategies.diff_adapt.labels import Difficulty
from rollout.strategies.diff_adapt.probe import DifficultyProbe, judge
from rollout.strategies.passage import Passage
from rollout.strategies.samples import Draws, SampleBySample
from rollout.strategies.strategy import HIDDEN, Circumstances, Resources, RolloutSource


@dataclass(frozen=True, kw_only=True)
class Way:
    """How prompts of one difficulty are answered.

    temperature  divisor of the logits.  top_p: see Truncation.
    length       fraction of the request's max_tokens that opener and draw may take together
    opener       how every response begins; nobody draws it
    """

    temperature: float
    top_p: float
    length: float
    opener: str

    def __post_init__(self) -> None:
        Fixed(temperature=self.temperature), Truncation(top_p=self.top_p)  # raise for values that cannot be
        if not 0.0 < self.length <= 1.0:
            raise ValueError(f"length is a fraction of max_tokens, above 0 and at most 1, got {self.length}")


@dataclass(frozen=True, kw_only=True)
class DiffAdapt:
    """Temperature, length and opening by the difficulty that a probe reads off the prompt.

    Rule    d = argmax(probe(h) + offsets), Normal where its probability is below min_confidence; the group is drawn
            as `easy`, `normal` or `hard` says. A response cut by its length goes on behind `cue` until the text has
            `cue_end`, at cue_temperature, for at most cue_tokens.
    Source  DiffAdapt, arXiv:2510.19669, grade A-code, pre-release tree (Dominic789654/Probe_new
            inference_budget_probe.py) for temperatures 0.5/0.8/0.4, top-p, lengths 0.4/1/0.5, probe and rescue (on by
            default, T = 0.6, 1 024 tokens). The wording of openers, cue and announcement is ours (the release draws
            openers from pools of five); so is that a response with its cue never exceeds max_tokens, which leaves a
            normal one nothing to be rescued with. min_confidence: the paper asks for it, the release has none.
    Units   offsets: added to the logits of easy, normal, hard.  min_confidence: probability, 0 switches it off.
    Traps   openers and cues are in the response, for the verifier, but nobody drew them: not `policy_drawn`. The probe
            belongs to the weights it was trained with: as the policy moves away from them, train it again.
    """

    needs: ClassVar[frozenset[str]] = frozenset({HIDDEN})
    probe: str  # file, as scripts/train_difficulty_probe.py writes it
    easy: Way
    normal: Way
    hard: Way
    offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)
    min_confidence: float = 0.0
    cue: str = "\n</think>\n\nMy room is used up, so I answer now: \\boxed{"
    cue_end: str = "}"
    cue_temperature: float = 0.6
    cue_tokens: int = 1024
    chunk: int = 16  # tokens of a rescue drawn at a time; what lies behind cue_end is thrown away

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ValueError(f"DiffAdapt.min_confidence is a probability, got {self.min_confidence}")
        if self.cue_tokens < 0 or self.chunk < 1:
            raise ValueError(
                "DiffAdapt.cue_tokens is 0 (no rescue) or more and chunk at least 1 token, got"
                f" {self.cue_tokens} and {self.chunk}"
            )
        if not self.cue_end:
            raise ValueError("DiffAdapt.cue_end is the text that ends a rescue, got nothing")
        Fixed(temperature=self.cue_temperature)

    def check(self, run: Circumstances) -> None:
        if not run.plain_draw:
            raise ValueError(
                "strategy=diff_adapt chooses temperature and top-p by difficulty and would overrule the run's: leave"
                " temperature=fixed at temperature.temperature=1, and truncation=none"
            )

    def check_files(self) -> None:
        DifficultyProbe.load(Path(self.probe))

    def over(self, resources: Resources) -> RolloutSource:
        probe = DifficultyProbe.load(Path(self.probe))
        announcement = resources.encode(probe.announcement)
        openers = {difficulty: resources.encode(self.way(difficulty).opener) for difficulty in Difficulty}
        rescue = _Rescue(self, resources)

        async def plan(request: GroupRequest) -> Difficulty:
            hidden = await resources.hidden((*request.prompt_ids, *announcement))
            if len(hidden) != probe.hidden_size:
                raise RolloutError(
                    f"the difficulty probe {self.probe} reads {probe.hidden_size} hidden values and the policy has"
                    f" {len(hidden)}: train a probe for this model"
                )
            return judge(probe, torch.from_numpy(hidden), self.offsets, self.min_confidence).difficulty

        async def sample(draws: Draws, difficulty: Difficulty) -> Rollout:
            request, way = draws.request, self.way(difficulty)
            opener = Passage.forced(openers[difficulty])
            room = int(way.length * request.max_tokens) - len(opener)
            if room < 1:
                raise RolloutError(
                    f"group {request.group_id}: the {difficulty.name.lower()} way of strategy=diff_adapt leaves no room"
                    f" for a response, its opener has {len(opener)} of {int(way.length * request.max_tokens)} tokens:"
                    " raise task.max_tokens or shorten the opener"
                )
            drawn = await draws.one(
                resources.policy,
                prompt_ids=(*request.prompt_ids, *opener.ids.tolist()),
                max_tokens=room,
                temperature=Fixed(temperature=way.temperature),
                truncation=Truncation(top_p=way.top_p),
            )
            response, finish = Passage.join(opener, Passage.of(drawn)), drawn.finish_reason
            if finish is FinishReason.LENGTH:
                response, finish = await rescue(draws, response)
            return draws.response(response, finish, resources)

        return SampleBySample(sample, plan, resources.deadline_s)

    def way(self, difficulty: Difficulty) -> Way:
        return {Difficulty.EASY: self.easy, Difficulty.NORMAL: self.normal, Difficulty.HARD: self.hard}[difficulty]


class _Rescue:
    """What goes on behind a response that met its limit."""

    def __init__(self, rule: DiffAdapt, resources: Resources) -> None:
        self._rule = rule
        self._resources = resources
        self._cue = Passage.forced(resources.encode(rule.cue))

    async def __call__(self, draws: Draws, response: Passage) -> tuple[Passage, FinishReason]:
        """The response with cue and answer; unchanged where there is no room for both."""
        request, rule = draws.request, self._rule
        room = min(rule.cue_tokens, request.max_tokens - len(response) - len(self._cue))
        if room < 1:
            return response, FinishReason.LENGTH
        answer = Passage.forced(())
        response = Passage.join(response, self._cue)
        while len(answer) < room:
            drawn = await draws.one(
                self._resources.policy,
                prompt_ids=(*request.prompt_ids, *response.ids.tolist(), *answer.ids.tolist()),
                max_tokens=min(rule.chunk, room - len(answer)),
                temperature=Fixed(temperature=rule.cue_temperature),
                truncation=Truncation(),
            )
            answer = Passage.join(answer, Passage.of(drawn))
            if (end := self._end(answer.ids.tolist())) is not None:
                return Passage.join(response, answer[:end]), FinishReason.STOP
            if drawn.finish_reason is not FinishReason.LENGTH:
                return Passage.join(response, answer), drawn.finish_reason
        return Passage.join(response, answer), FinishReason.LENGTH

    def _end(self, ids: Sequence[int]) -> int | None:
        """Tokens up to and with the one that completes `cue_end`."""
        if self._rule.cue_end not in self._resources.decode(ids):
            return None
        return next(n for n in range(1, len(ids) + 1) if self._rule.cue_end in self._resources.decode(ids[:n]))
