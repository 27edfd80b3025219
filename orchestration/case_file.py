"""A file of responses to judge, one JSON object a line, read twice: checked as a whole first, then judged as a stream.

    file --survey--> every line is a case, groups are in one piece; or CaseError, before anything is judged
         --units---> single cases and whole groups, in order

Neither pass holds more than one line or group in memory, but for a digest of every group's name.
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from orchestration.errors import CaseError
from reward.groups import asked
from reward.verifier import VERIFIERS
from reward.wire import Case, sentence

STDIN = Path("-")
MAX_LINE_BYTES = 32 << 20
MAX_GROUP_BYTES = 64 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A case, where it stands and how large its line is."""

    number: int
    size: int
    case: Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a whole file asks for."""

    cases: int
    verifiers: frozenset[str]


class CaseFile:
    """Use as a context manager. `-` is standard input, which is copied to a nameless temporary file first."""

    def __init__(self, path: Path) -> None:
        self.name = "standard input" if path == STDIN else str(path)
        self._path = path
        self._file: BinaryIO

    def __enter__(self) -> "CaseFile":
        try:
            self._file = sys.stdin.buffer if self._path == STDIN else self._path.open("rb")
            if not self._file.seekable():
                copy = tempfile.TemporaryFile()  # closed by __exit__
                shutil.copyfileobj(self._file, copy)
                self._file.close()
                self._file = copy
        except OSError as error:
            raise CaseError(f"{self.name} cannot be read: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def survey(self) -> Survey:
        """Read and check every line. Raises CaseError, naming the first line that is wrong and why."""
        count = 0
        verifiers: set[str] = set()
        seen: set[bytes] = set()  # groups, by digest: their names may be long
        for unit in self.units():
            first = unit[0]
            if first.case.group is not None:
                digest = hashlib.blake2b(first.case.group.encode(), digest_size=16).digest()
                if digest in seen:
                    raise self._wrong(
                        first.number,
                        f"its group {first.case.group[:80]} began earlier in the file: its lines belong together",
                    )
                seen.add(digest)
            count += len(unit)
            for line in unit:
                verifiers.update(asked(line.case.verifier, line.case.reference) & VERIFIERS.keys())
        return Survey(cases=count, verifiers=frozenset(verifiers))

    def units(self) -> Iterator[list[Line]]:
        """The cases from the first one on: each by itself, or with all that follow it in its group."""
        unit: list[Line] = []
        held = 0
        for line in self._lines():
            if unit and (line.case.group is None or line.case.group != unit[0].case.group):
                yield unit
                unit, held = [], 0
            unit.append(line)
            held += line.size
            if held > MAX_GROUP_BYTES:
                raise self._wrong(line.number, f"its group is larger than {MAX_GROUP_BYTES >> 20} MiB up to here")
        if unit:
            yield unit

    def _lines(self) -> Iterator[Line]:
        self._file.seek(0)
        number = 0
        while text := self._file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(text) > MAX_LINE_BYTES:
                raise self._wrong(number, f"it is longer than {MAX_LINE_BYTES >> 20} MiB")
            if number == 1:
                text = text.removeprefix(BYTE_ORDER_MARK)
            if text.strip():
                yield Line(number, len(text), self._case(number, text))

    def _case(self, number: int, text: bytes) -> Case:
        try:
            return Case.model_validate_json(text)
        except ValidationError as error:
            raise self._wrong(number, not_utf8(text) or sentence(error)) from None

    def _wrong(self, number: int, why: str) -> CaseError:
        return CaseError(f"{self.name} line {number}: {why}")


def not_utf8(text: bytes) -> str | None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"it is not UTF-8: byte 0x{text[error.start]:02x} at column {error.start + 1}"
    return None
