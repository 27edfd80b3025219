"""A memory bounded by weight."""

from reward.verilog.memory import ByWeight


def test_what_weighs_too_much_goes_oldest_first():
    """The value used longest ago goes first, and a heavy one takes the room of many."""
    memory = ByWeight(3, len)
    for key in "abc":
        memory.put(key, "1")
    memory.get("a")
    memory.put("d", "1")
    assert [memory.get(key) for key in "abcd"] == ["1", None, "1", "1"]
    memory.put("e", "22")
    assert [memory.get(key) for key in "acde"] == [None, None, "1", "22"]
    memory.put("f", "4444")
    assert [memory.get(key) for key in "def"] == [None, None, None]


def test_the_first_value_of_a_key_stays():
    """Putting a key again weighs nothing."""
    memory = ByWeight(2, len)
    for value in ("1", "2", "3"):
        memory.put("a", value)
    memory.put("b", "1")
    assert (memory.get("a"), memory.get("b")) == ("1", "1")
