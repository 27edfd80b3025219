"""Fuzz a verifier for some time and say what broke; exit status 1 where something did.

python -m scripts.fuzz_verifiers --verifier verilog --seconds 600 --seed 1
python -m scripts.fuzz_verifiers --verifier math --case 1:4711        # one case again, while nobody changes the attacks
"""

import argparse
import sys
import time

from tests.reward.attacks.fuzzing import FUZZERS, Tally, case_of, fuzz

SHOWN_CHARS = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verifier", choices=sorted(FUZZERS), required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--case", help="SEED:NUMBER as printed with a finding: show that response and leave")
    options = parser.parse_args()
    if options.case:
        case = case_of(options.verifier, options.case)
        print(f"{case.request.id}, wrong: {case.wrong}\n--- reference\n{case.request.reference}\n--- response")
        print(case.request.response.encode(errors="backslashreplace").decode())
        return 0
    tally, findings = Tally(), 0
    for finding in fuzz(options.verifier, options.seconds, options.seed, tally):
        findings += 1
        print(f"case {finding.case} ({finding.request.id}): {finding.complaint}")
        print(f"  {finding.request.response[:SHOWN_CHARS]!a}", flush=True)
    print(
        f"{options.verifier}, seed {options.seed}: {tally.cases} cases, {findings} findings, slowest"
        f" {tally.slowest_s:.2f} s, statuses {dict(tally.statuses)}, rewarded {dict(tally.rewarded)}"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
