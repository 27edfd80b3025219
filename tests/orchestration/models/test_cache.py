"""The model cache: built once, never half."""

import pytest

from orchestration.models.cache import cached_folder, content_key
from orchestration.models.errors import ModelError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_built_once(root):
    """The second call finds what the first built."""
    builds = []

    def build(folder):
        builds.append(folder)
        (folder / "weights").write_text("w")

    assert cached_folder("tiny", "k", build) == cached_folder("tiny", "k", build) == root / "tiny-k"
    assert (root / "tiny-k" / "weights").read_text() == "w"
    assert len(builds) == 1


def test_a_build_that_fails_leaves_nothing(root):
    """An interrupted build passes its error on and the next call builds anew."""

    def interrupted(folder):
        (folder / "half").write_text("h")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("tiny", "k", interrupted)
    assert list(root.iterdir()) == []
    cached_folder("tiny", "k", lambda folder: (folder / "whole").write_text("w"))
    assert [file.name for file in (root / "tiny-k").iterdir()] == ["whole"]


def test_of_two_builders_the_first_to_finish_wins(root):
    """A build that finds its place taken uses what is there and leaves no staging folder."""

    def overtaken(folder):
        (folder / "weights").write_text("late")
        cached_folder("tiny", "k", lambda other: (other / "weights").write_text("early"))

    assert (cached_folder("tiny", "k", overtaken) / "weights").read_text() == "early"
    assert [path.name for path in root.iterdir()] == ["tiny-k"]


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    """The message names the folder and the variable to set."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="cannot be written .*TEMPER_CACHE"):
        cached_folder("tiny", "k", lambda folder: None)


def test_the_borders_between_the_parts_of_a_key_count():
    """("ab", "c") and ("a", "bc") are different builds."""
    assert content_key("ab", "c") != content_key("a", "bc")
    assert content_key("ab", "c") == content_key("ab", b"c")
