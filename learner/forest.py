"""Sequences that begin alike, laid out so that every distinct prefix is computed once.

Samples of one group share their prompt, often the first half of the response, and a confident policy repeats whole
responses. The hidden state of a token depends on the tokens before it and on nothing else, so equal prefixes have equal
hidden states: computing them once is exact, and the gradient of every sample that passes through a node adds up there.

    a b c d                node      0 1 2 3   4 5   6
    a b x y       ->       token     a b c d   x y   z
    a b x z                position  0 1 2 3   2 3   3
                           segments  [0..3]  [4..5 after path 0 1]  [6 after path 0 1 4]

A segment is the new part of one sequence; its tokens attend along their path, the nodes from the root to themselves.
numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Nodes in the order of their first use by the sorted sequences.

    tokens, positions  int64 [node]
    paths              one int64 array per sequence, in the order given: its nodes from the root
    segments           (sequence, start): the sequence whose nodes from `start` on are new; in node order
    """

    tokens: np.ndarray
    positions: np.ndarray
    paths: tuple[np.ndarray, ...]
    segments: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.tokens)


def lexicographic_order(sequences: Sequence[np.ndarray]) -> list[int]:
    """Indices that sort token sequences like words in a dictionary, so that equal beginnings are neighbours."""
    keys = [
        np.asarray(sequence).astype(">u4").tobytes() for sequence in sequences
    ]  # big-endian bytes sort like numbers
    return sorted(range(len(sequences)), key=keys.__getitem__)


def shared_prefix(first: np.ndarray, second: np.ndarray) -> int:
    """Number of tokens two sequences have in common at their beginning."""
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    return int(differs.argmax()) if differs.any() else length


def plant(sequences: Sequence[np.ndarray]) -> Forest:
    """The forest of non-empty integer sequences."""
    paths: list[np.ndarray] = [np.empty(0, np.int64)] * len(sequences)
    tokens, positions, segments = [], [], []
    count = 0
    previous = None
    for index in lexicographic_order(sequences):
        sequence = sequences[index]
        start = shared_prefix(sequences[previous], sequence) if previous is not None else 0
        fresh = len(sequence) - start
        new_nodes = np.arange(count, count + fresh)
        paths[index] = np.concatenate([paths[previous][:start], new_nodes]) if start else new_nodes
        if fresh:
            tokens.append(np.asarray(sequence[start:], np.int64))
            positions.append(np.arange(start, len(sequence)))
            segments.append((index, start))
            count += fresh
        previous = index
    return Forest(
        tokens=np.concatenate(tokens),
        positions=np.concatenate(positions),
        paths=tuple(paths),
        segments=tuple(segments),
    )
