"""A worker process: judges one payload after another on its main thread, so that its parent can kill it at any moment.

    python -m reward.child MODULE:FUNCTION MEMORY_BYTES

Lines of JSON in, lines of JSON out; the first line out says that the libraries are imported. FUNCTION takes a payload
and returns an answer, both JSON objects. Nothing of the run (Ray, torch, vLLM) is imported here.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
READY = {"ready": True}


def main(target: str, memory_bytes: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed parent leaves nobody behind
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    module, _, function = target.partition(":")
    judge = getattr(importlib.import_module(module), function)
    say(answers, READY)
    for line in sys.stdin:
        try:
            answer = judge(json.loads(line))
        except (MemoryError, RecursionError) as error:
            answer = {"status": "resource", "detail": f"{type(error).__name__} while judging"}
        except Exception as error:  # a library's fault on this input: a status of its own, counted apart
            answer = {"status": "error", "detail": f"{type(error).__name__} while judging: {str(error)[:200]}"}
        say(answers, answer)


def say(answers, answer: dict) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
