"""Responses in, verdicts out: the sandboxed verifier service.

    VerifyRequest --> VerifierPool (Ray actor) --> killable, sandboxed processes --> Verdict

A verdict carries a status: only `scored` says something about the response. A timeout or a fault of ours never becomes
a reward.
"""
