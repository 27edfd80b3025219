"""What docs/tasks.md shows of lines with their own verifiers works as it stands."""

import json
import re
from pathlib import Path

from orchestration.tasks.jsonl import Jsonl
from reward.instructions.kinds import KINDS

PAGE = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")


def examples() -> list[dict]:
    """The objects of the indented block, which is broken to fit the page."""
    block = re.search(r"(?m)^(?:    \{\"prompt\".*\n)(?:    .*\n)+", PAGE).group()
    text, found, position = " ".join(block.split()), [], 0
    while position < len(text):
        example, end = json.JSONDecoder().raw_decode(text, position)
        found.append(example)
        position = end + 1
    return found


def test_the_examples_are_tasks(tmp_path):
    """Written one a line, they are read, references and all."""
    file = tmp_path / "examples.jsonl"
    file.write_text("\n".join(map(json.dumps, examples())), encoding="utf-8")
    assert [example.get("verifier", "math") for example in examples()] == [
        "math",
        "instructions",
        "majority",
        "composed",
    ]
    train = tmp_path / "train.jsonl"
    train.write_text('{"prompt": "1?", "answer": 1}', encoding="utf-8")
    Jsonl(path=str(train), heldout_path=str(file)).heldout_tasks(4)


def test_every_kind_of_constraint_is_named():
    """The table has no gap."""
    table = PAGE[PAGE.index("| kinds | fields |") : PAGE.index("Stricter than IFEval")]
    assert [kind for kind in KINDS if f"`{kind}`" not in table] == []
