"""The K of the scheduler's next step, with a scheduler and a clock made by hand."""

from types import SimpleNamespace

from rollout.vllm_adapter.draft_length import DraftLength

STOP = 2


class Machine:
    """A scheduler of `requests` running requests whose steps take what `seconds(K)` says; drafts pass as `accepted`."""

    def __init__(self, requests, seconds, accepted, largest=4):
        self.seconds, self.accepted, self.now = seconds, accepted, 0.0
        self.dynamic_sd_lookup = [largest] * 9
        names = [f"r{index}" for index in range(requests)]
        parameters = SimpleNamespace(all_stop_token_ids={STOP})
        self.requests = {name: SimpleNamespace(sampling_params=parameters) for name in names}
        self.previous = largest
        self.made = []
        self.length = DraftLength(self, largest, lambda: self.now)

    def has_unfinished_requests(self):
        return True

    def schedule(self):
        drafts = self.dynamic_sd_lookup[len(self.requests)]
        verified, self.previous = self.previous, drafts
        return SimpleNamespace(
            num_scheduled_tokens=dict.fromkeys(self.requests, 1 + verified),
            total_num_scheduled_tokens=len(self.requests) * (1 + verified),
            num_spec_tokens_to_schedule=drafts,
            scheduled_spec_decode_tokens={name: [7] * verified for name in self.requests} if verified else {},
            scheduled_new_reqs=[],
        )

    def update_from_output(self, scheduler_output, runner_output):
        return None

    def run(self, steps):
        for _ in range(steps):
            output = self.length.schedule()
            verified = len(next(iter(output.scheduled_spec_decode_tokens.values()), ()))
            emitted = [7] * (1 + min(self.accepted, verified))
            rows = {name: row for row, name in enumerate(self.requests)}
            self.length.update_from_output(
                output, SimpleNamespace(req_id_to_index=rows, sampled_token_ids=[emitted] * len(rows))
            )
            self.now += self.seconds(verified)
            self.made.append(output.num_spec_tokens_to_schedule)
        return self.made[-1]


def test_drafts_that_pass_and_cost_little_are_made():
    """All four pass, and each costs a tenth of a step."""
    assert Machine(2, lambda drafts: 1.0 + 0.1 * drafts, accepted=4).run(300) == 4


def test_drafts_that_do_not_pass_are_given_up():
    """None passes: no drafts, but a single one now and then, to see whether that has changed."""
    machine = Machine(2, lambda drafts: 1.0 + 0.1 * drafts, accepted=0)
    machine.run(1500)
    late = machine.made[200:]
    assert late.count(0) > 0.9 * len(late)
    assert 1 in late


def test_only_as_many_drafts_as_pass():
    """The first two always pass, the others never: K = 2, though 2 itself was never timed."""
    assert Machine(2, lambda drafts: 1.0 + 0.1 * drafts, accepted=2).run(300) == 2


def test_drafts_that_cost_more_than_they_bring_are_given_up():
    """All pass, but a draft costs two steps."""
    assert Machine(2, lambda drafts: 1.0 + 2.0 * drafts, accepted=4).run(300) == 0


def test_drafts_behind_the_end_of_a_response_are_not_judged():
    """Four drafts, the second of them the end: two judged and two passed, whatever came of the others."""
    machine = Machine(1, lambda drafts: 1.0, accepted=0)
    assert machine.length._passed("r0", [7, STOP, 9], 4) == (2, 2)
    assert machine.length._passed("r0", [7, STOP, 9, 9, 9], 4) == (2, 2)
    assert machine.length._passed("r0", [7, 7, STOP], 4) == (2, 3)  # the end was drawn in place of draft 3
    assert machine.length._passed("r0", [7, 7, 7, 7, 7], 4) == (4, 4)
    assert machine.length._passed("r0", [], 4) == (0, 0)
