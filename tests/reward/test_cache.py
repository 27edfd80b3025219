"""The bounded memory of judgements."""

from reward.cache import RecentlyUsed


def test_forgets_the_least_recently_used():
    """A value read again outlives one that was not."""
    cache = RecentlyUsed(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert len(cache) == 2


def test_zero_entries_remembers_nothing():
    """A cache of no entries is no cache."""
    cache = RecentlyUsed(0)
    cache.put("a", 1)
    assert cache.get("a") is None
