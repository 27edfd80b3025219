"""`temper verify`: a file of cases in, verdicts out in their order, and a wrong line is named before anything runs."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestration import case_file, judge_file
from orchestration.case_file import CaseFile, Line
from orchestration.cli import COMMANDS, main
from orchestration.errors import CaseError
from orchestration.judge_file import Tally
from reward.messages import Status, Verdict
from reward.wire import Case

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "orchestration.cli", "verify"]


def case(number: int = 0, response: str = r"\boxed{7}", answer: str = "7", **more: object) -> dict:
    return {"id": f"c{number}", "verifier": "math", "response": response, "reference": {"answer": answer}, **more}


def write(folder: Path, *cases: dict | bytes) -> Path:
    file = folder / "cases.jsonl"
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in cases]
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_verdicts_come_in_input_order_with_the_same_ids(tmp_path):
    """Numbers and repeated texts are ids too, and every case gets what it deserves; exit 0 for any reward."""
    file = write(
        tmp_path,
        {**case(), "id": "same"},
        {**case(response=r"\boxed{8}"), "id": "same"},
        {**case(response="I do not know"), "id": 3},
        b"",
        {**case(response="x" * 2_000_000), "id": "long", "prompt": "a field of the user's own"},
        {**case(response=r"\boxed{x+1}", answer="1+x"), "id": "worked out"},
    )
    done = run(file)
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [(verdict["id"], verdict["reward"], verdict["status"]) for verdict in verdicts] == [
        ("same", 1.0, "scored"),
        ("same", 0.0, "scored"),
        (3, 0.0, "malformed"),
        ("long", 0.0, "resource"),
        ("worked out", 1.0, "scored"),
    ]
    assert set(verdicts[0]) == {"id", "reward", "status", "components", "detail", "seconds"}
    assert "2000000 characters" in verdicts[3]["detail"]
    assert done.stderr == (
        "5 verdicts: 3 scored, 0 timeout, 1 resource, 1 malformed, 0 error; mean reward 0.5000 over scored and"
        " malformed\n"
    )


GOOD = json.dumps(case()).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "it is not JSON: EOF"),
        (GOOD + b" x", "it is not JSON: trailing characters"),
        (b"[1]", "it: an object is expected, got [1]"),
        (json.dumps({"id": "1", "verifier": "math", "response": "x"}).encode(), "the field reference is missing"),
        (json.dumps({**case(), "response": 7}).encode(), "response: input should be a valid string, got 7"),
        (json.dumps({**case(), "reference": "7"}).encode(), "reference: input should be an object, got '7'"),
        (json.dumps({**case(), "id": None}).encode(), "id: input should be a valid string, got None"),
        (json.dumps({**case(), "verifier": "mth"}).encode(), "there is no verifier mth, only composed,"),
        (json.dumps({**case(), "group": 1}).encode(), "group: input should be a valid string, got 1"),
        (GOOD.replace(b"boxed", b"b\xffxed"), "it is not UTF-8: byte 0xff at column 50"),
        (GOOD.replace(b"boxed", b"\\ud800"), "it is not JSON: "),
        (b"[" * 100_000, "it is not JSON: recursion limit exceeded"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_judged(tmp_path, capsys, line, why):
    """Exit 2, one sentence with number and reason, nothing on standard output, --out not touched."""
    out = tmp_path / "out.jsonl"
    out.write_text("kept")
    file = write(tmp_path, case(), line, case())
    assert main(["verify", str(file), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"temper: {file} line 2: {why}")
    assert said.err.count("\n") == 1
    assert out.read_text() == "kept"


def test_a_line_without_end_is_not_read(tmp_path, monkeypatch):
    """A line past the bound is refused, not loaded."""
    monkeypatch.setattr(case_file, "MAX_LINE_BYTES", 100)
    with CaseFile(write(tmp_path, b"{" + b" " * 200)) as cases, pytest.raises(CaseError, match="line 1: it is longer"):
        cases.survey()


def test_a_group_in_two_pieces_is_refused(tmp_path, capsys):
    """Lines of one group stand next to each other."""
    file = write(tmp_path, case(group="a"), case(group="b"), case(group="a"))
    assert main(["verify", str(file)]) == 2
    assert "line 3: its group a began earlier in the file" in capsys.readouterr().err


def test_a_group_is_judged_together(tmp_path):
    """Majority vote over a group: the two that agree win; the answer that loses here wins in another group."""
    votes = [(r"\boxed{5}", "a"), (r"\boxed{5}", "a"), (r"\boxed{6}", "a"), (r"\boxed{6}", "b"), (r"\boxed{6}", "b")]
    file = write(
        tmp_path,
        *(
            {**case(i, response), "verifier": "majority", "reference": {}, "group": g}
            for i, (response, g) in enumerate(votes)
        ),
    )
    done = run(file)
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [1.0, 1.0, 0.0, 1.0, 1.0], done.stderr


def test_a_composed_case_is_the_weighted_sum_of_its_parts(tmp_path):
    """0.75 * right + 0.25 * wrong."""
    part = {"verifier": "math", "weight": 3.0, "reference": {"answer": "7"}}
    parts = {"right": part, "wrong": {**part, "weight": 1.0, "reference": {"answer": "8"}}}
    done = run(write(tmp_path, {**case(), "verifier": "composed", "reference": {"parts": parts}}))
    assert json.loads(done.stdout)["reward"] == 0.75, done.stderr


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf" + GOOD, GOOD], ids=["empty", "byte order mark", "no newline"])
def test_files_as_editors_leave_them(tmp_path, content):
    """An empty file, a byte order mark, a last line without its end: all read."""
    file = tmp_path / "cases.jsonl"
    file.write_bytes(content)
    with CaseFile(file) as cases:
        assert cases.survey().cases == bool(content)


def test_standard_input(tmp_path):
    """`-` reads a pipe, which cannot be read twice, all the same."""
    done = run("-", input=GOOD.decode() + "\n")
    assert (done.returncode, json.loads(done.stdout)["reward"]) == (0, 1.0), done.stderr
    wrong = run("-", input="{\n")
    assert (wrong.returncode, wrong.stderr[:33]) == (2, "temper: standard input line 1: it")


def test_what_cannot_be_read_or_written(tmp_path, capsys):
    """A missing file, a folder, the input as output, a folder that is not there: exit 2, one sentence each."""
    file = write(tmp_path, case())
    for arguments, why in [
        ((tmp_path / "none.jsonl",), "none.jsonl cannot be read: No such file"),
        ((tmp_path,), "cannot be read: Is a directory"),
        ((file, "--out", file), "is the file of the cases"),
        ((file, "--out", tmp_path / "no" / "out"), "cannot be written: No such file"),
        ((file, "--workers", "0"), "--workers is at least 1, got 0"),
        ((file, "deadline_s=-1"), "reward.deadline_s is above 0, got -1"),
        ((file, "reward.dedline_s=1"), "unknown key reward.dedline_s"),
    ]:
        assert main(["verify", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert why in error
        assert error.count("\n") == 1
    assert file.read_bytes() == GOOD + b"\n"


def test_a_missing_tool_is_our_fault(tmp_path, capsys, monkeypatch):
    """Exit 1 with the package to install, and --out stays as it is."""
    monkeypatch.setenv("PATH", "/nonexistent")
    reference = {"reference_source": "module m; endmodule", "top_module": "m"}
    file = write(tmp_path, {**case(), "verifier": "verilog", "reference": reference})
    assert main(["verify", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "apt-get install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_reach_the_verifiers(tmp_path):
    """key=value, with and without the section's name."""
    done = run(write(tmp_path, case()), "max_response_chars=3", "reward.deadline_s=4")
    assert json.loads(done.stdout)["status"] == "resource", done.stderr


def test_a_closed_pipe_ends_it_quietly(tmp_path):
    """`| head -1`: no traceback, and not exit 0, for not all was judged."""
    file = write(tmp_path, *(case(i, detail="x" * 1000) for i in range(3000)))
    with subprocess.Popen([*COMMAND, str(file)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(((rf"(x+{i})^2", f"x^2+{2 * i}x+{i * i}") for i in range(1, 20000)), id="judging"),
        pytest.param((("5", "5") for _ in range(20000)), id="waiting for a reader"),  # nobody reads the pipe below
    ],
)
def test_ctrl_c_leaves_nobody_behind(tmp_path, answers):
    """Exit 130 soon after the signal, no traceback, and no process of the verifiers lives on."""
    file = write(tmp_path, *(case(i, rf"\boxed{{{ours}}}", answer=theirs) for i, (ours, theirs) in enumerate(answers)))
    with subprocess.Popen(
        [*COMMAND, str(file), "--workers", "2"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 30
        below: list[psutil.Process] = []
        while not below and time.monotonic() < deadline:
            time.sleep(0.1)
            below = psutil.Process(process.pid).children(recursive=True)
        time.sleep(1.0)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    assert below
    _, alive = psutil.wait_procs(below, timeout=5)
    assert alive == []


def test_five_thousand_lines(tmp_path):
    """Order and rewards of a large file, whose memory is that of the window and not of the file."""
    count = 5000
    file = write(
        tmp_path, *(case(i, f"{'because ' * 100}\n\\boxed{{{i % 7}}}", answer=str(i % 5)) for i in range(count))
    )
    out = tmp_path / "out.jsonl"
    largest = 0
    with subprocess.Popen([*COMMAND, str(file), "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                largest = max(largest, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.02)
        assert process.returncode == 0, process.stderr.read()
    with out.open() as verdicts:
        for i, line in enumerate(verdicts):
            verdict = json.loads(line)
            assert (verdict["id"], verdict["reward"]) == (f"c{i}", float(i % 7 == i % 5))
    assert i == count - 1
    assert 0 < largest < 120 << 20  # about 45 MiB in practice


def test_the_window_is_bounded(monkeypatch):
    """However long the file, only `WINDOW_CHUNKS` calls are open at a time, and their bytes stay within the bound."""
    opened = closed = most = 0

    class Slow:
        async def verify(self, requests):
            nonlocal closed, most
            most = max(most, opened - closed)
            await asyncio.sleep(0.001)
            closed += len(requests)
            return [Verdict(id=one.id, reward=1.0, status=Status.SCORED) for one in requests]

    def units():
        nonlocal opened
        for number in range(2000):
            opened += 1
            yield [Line(number, 1000, Case(**case(number)))]

    monkeypatch.setattr(judge_file, "CHUNK_CASES", 10)
    monkeypatch.setattr(judge_file, "WINDOW_BYTES", 50_000)
    written: list[dict] = []
    tally = asyncio.run(judge_file.judge_file(units(), Slow(), written.append, lambda done: None))
    assert [one["id"] for one in written] == [f"c{number}" for number in range(2000)]
    assert most <= 61 + 10  # five chunks at work, one being read, and the case that began the next one
    assert tally.statuses.total() == 2000


def test_the_last_line_on_an_unjudged_file():
    """No verdict that can be trained on: no mean is made up."""
    assert str(Tally()).endswith("mean reward none")


def test_judging_a_file_imports_nothing_heavy(tmp_path):
    """Neither torch nor Ray nor a command that needs them: the command starts in a fraction of a second."""
    code = (
        "import sys; from orchestration.cli import main; main(['verify', sys.argv[1]]);"
        " print(sorted({'torch', 'ray', 'hydra', 'vllm'} & set(sys.modules)))"
    )
    file = write(tmp_path, case())
    done = subprocess.run([sys.executable, "-c", code, file], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_is_listed(capsys):
    """`temper --help` names them all, and each can be asked for its own help."""
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n    {name}" in listed
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"usage: temper {name}" in capsys.readouterr().out
