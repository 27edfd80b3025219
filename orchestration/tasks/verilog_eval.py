"""Task source: a folder in VerilogEval v2's form, three files a problem.

Prob001_zero_prompt.txt   the specification           -> Task.prompt
Prob001_zero_ref.sv       module RefModule            -> reference["reference_source"]
Prob001_zero_test.sv      the testbench (module tb)   -> reference["testbench"]
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestration.tasks.errors import TaskDataError
from orchestration.tasks.finite import FiniteSource, FiniteTasks
from orchestration.tasks.split import fingerprint
from orchestration.tasks.task import Task

PROMPT_SUFFIX = "_prompt.txt"


@dataclass(frozen=True, kw_only=True)
class VerilogEval(FiniteSource):
    """Problems of a VerilogEval v2 folder, read at first use. Implements TaskSource.

    path              of the folder
    heldout_fraction  of the problems, by the hash of their prompts
    instruction       appended to every prompt after a blank line
    """

    path: str
    heldout_fraction: float = 0.3
    instruction: str = "Answer with the complete SystemVerilog module in one ```verilog code block."
    max_tokens: int = 1024
    chat: bool = True

    @cached_property
    def _tasks(self) -> FiniteTasks:
        folder = Path(self.path).expanduser()
        prompts = sorted(folder.glob(f"*{PROMPT_SUFFIX}"))
        if not prompts:
            raise TaskDataError(
                f"{folder} holds no VerilogEval problem: expected files like Prob001_zero{PROMPT_SUFFIX} in it"
            )
        return FiniteTasks.split(str(folder), [self._problem(file) for file in prompts], self.heldout_fraction)

    def _problem(self, prompt_file: Path) -> Task:
        stem = prompt_file.name.removesuffix(PROMPT_SUFFIX)
        prompt = f"{_read(prompt_file).strip()}\n\n{self.instruction}".strip()
        return Task(
            id=f"{stem}-{fingerprint(prompt)}",
            prompt=prompt,
            verifier="verilog",
            reference={
                "reference_source": _read(prompt_file.with_name(f"{stem}_ref.sv")),
                "testbench": _read(prompt_file.with_name(f"{stem}_test.sv")),
                "top_module": "TopModule",
            },
        )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskDataError(
            f"VerilogEval file {file} cannot be read ({error}): a problem is _prompt.txt, _ref.sv and _test.sv"
        ) from error
