import numpy as np

from learner.forest import lexicographic_order, plant, shared_prefix


def test_the_drawing_of_the_docstring():
    """Three sequences that begin alike become the seven nodes that are drawn in the module."""
    a, b, c, d, x, y, z = range(7)
    forest = plant([np.array(s) for s in ([a, b, c, d], [a, b, x, y], [a, b, x, z])])
    assert forest.tokens.tolist() == [a, b, c, d, x, y, z]
    assert forest.positions.tolist() == [0, 1, 2, 3, 2, 3, 3]
    assert [path.tolist() for path in forest.paths] == [[0, 1, 2, 3], [0, 1, 4, 5], [0, 1, 4, 6]]
    assert forest.segments == ((0, 0), (1, 2), (2, 3))


def test_every_distinct_prefix_is_one_node():
    """Paths spell their sequences, and there are exactly as many nodes as distinct prefixes."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        sequences = [rng.integers(0, 3, rng.integers(1, 8)) for _ in range(rng.integers(1, 12))]
        forest = plant(sequences)
        prefixes = {tuple(s[: n + 1]) for s in sequences for n in range(len(s))}
        assert len(forest) == len(prefixes)
        for sequence, path in zip(sequences, forest.paths, strict=True):
            assert forest.tokens[path].tolist() == sequence.tolist()
            assert forest.positions[path].tolist() == list(range(len(sequence)))
        new = [forest.paths[index][start:].tolist() for index, start in forest.segments]
        assert sum(new, []) == list(range(len(forest)))


def test_sequences_sort_like_words():
    """Order is by token number, not by byte pattern or length."""
    sequences = [np.array(s) for s in ([256], [1, 5], [1], [70000, 0], [255, 9])]
    assert lexicographic_order(sequences) == [2, 1, 4, 0, 3]


def test_shared_prefix_of_a_sequence_and_its_beginning_is_the_beginning():
    assert shared_prefix(np.array([1, 2]), np.array([1, 2, 3])) == 2
    assert shared_prefix(np.array([4]), np.array([1, 2, 3])) == 0
