"""Copies are taken at once and written later; they live no longer than that, and nothing that goes wrong is lost."""

import threading
import weakref
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from learner.errors import CheckpointError
from learner.writing import BackgroundWriter, Writing


def test_what_is_held_is_as_it_was_and_tied_where_it_was():
    """Of dicts and lists, however deep; what is no tensor stays what it is."""
    shared = torch.arange(6.0).reshape(2, 3)
    state = OrderedDict(a=shared, b=shared.detach(), c={"deep": [torch.ones(2), 7], "none": None}, d=shared[1])
    held = Writing(copied=True).hold(state)
    shared.zero_()
    state["c"]["deep"][0].zero_()
    assert held["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert held["b"] is held["a"]
    assert held["c"]["deep"][0].tolist() == [1, 1]
    assert (held["c"]["deep"][1], held["c"]["none"], held["d"].tolist()) == (7, None, [3, 4, 5])


def test_values_made_in_the_same_memory_one_after_the_other_are_held_apart():
    """As those are that ranks gather."""
    buffer = torch.zeros(2)

    def values():
        for number in range(3):
            yield buffer.fill_(number)

    held = Writing(copied=True).hold_each(values())
    assert [one.tolist() for one in held] == [[0, 0], [1, 1], [2, 2]]
    assert [one.tolist() for one in Writing(copied=False).hold_each(values())] == [[0, 0], [1, 1], [2, 2]]


def test_every_file_is_forced_to_disk_by_who_wrote_it(tmp_path: Path, monkeypatch):
    """Those in a folder too; another rank's files in the same place are left alone."""
    forced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: forced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    (tmp_path / "of another rank").write_bytes(b"x")

    def folder(path: Path) -> None:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "two").write_bytes(b"22")

    writing = Writing(copied=True)
    writing.add(tmp_path / "sub" / "one", lambda path: path.write_bytes(b"1"))
    writing.add(tmp_path / "folder", folder)
    expected = {str(tmp_path / "sub" / "one"): 1, str(tmp_path / "folder" / "deep" / "two"): 2}
    assert writing.run() == expected
    assert {str(file) for file in forced} == expected.keys()


def test_a_second_checkpoint_waits_for_the_first_and_memory_is_let_go(tmp_path: Path):
    """So there is never more than one copy; also of one that could not be written."""
    writer, disk = BackgroundWriter(), threading.Event()
    copies = []

    def begin(name: str, fails: bool) -> None:
        writing = Writing(copied=True)
        held = writing.hold({"weights": torch.zeros(1000)})
        copies.append(weakref.ref(held["weights"]))

        def write(path: Path) -> None:
            disk.wait(30)
            path.write_bytes(held["weights"].numpy().tobytes())
            if fails:
                raise OSError("the disk is full")

        writing.add(tmp_path / name / "file", write)
        writing.add(tmp_path / name / "file too", lambda path: path.write_text(str(held)))
        writer.begin(tmp_path / name, writing)

    begin("first", fails=True)
    waited = threading.Thread(target=writer.wait)
    waited.start()
    waited.join(0.2)
    assert waited.is_alive()
    assert copies[0]() is not None
    disk.set()
    waited.join(10)
    assert not waited.is_alive()
    assert copies[0]() is None
    begin("second", fails=False)
    assert writer.begun(tmp_path / "second").result(10).keys() == {
        str(tmp_path / "second" / name) for name in ("file", "file too")
    }
    writer.wait()
    assert copies[1]() is None
    with pytest.raises(
        CheckpointError, match=r"cannot write .*/first/file of the learner's checkpoint: the disk is full"
    ):
        writer.begun(tmp_path / "first").result(10)
    assert not (tmp_path / "first" / "file too").exists()
