"""The files of a checkpoint: everything trained, whole and by name, so that any number of ranks can go on from it.

    trained.safetensors   float32 weight/<parameter>, exp_avg/<parameter>, exp_avg_sq/<parameter>, and buffer/<name>
    learner.json          version, controllers, optimizer steps, and the model folder the run started from
    random-<rank>.pt      where each rank's random numbers are; a rank that has none starts as in a new run

Tensors are gathered one after the other, written by rank 0 (learner/writing.py) and read by all ranks. Weights that are
not trained are those of the model folder.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from learner.errors import CheckpointError
from learner.publish import layout

TENSORS = "trained.safetensors"
STATE = "learner.json"
RANDOM = "random-{rank}.pt"


def write_tensors(path: Path, shapes: Mapping[str, Tensor], values: Iterable[Tensor]) -> None:
    """Write `values`, whose names, shapes and types `shapes` lists in their order.

    Raises OSError, but takes every value first: other ranks may help to make each, and would wait for ever.
    """
    values = iter(values)
    try:
        with path.open("wb") as file:
            file.write(layout(shapes, {})[0])
            for value in values:
                file.write(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    finally:
        for _ in values:
            pass


@contextmanager
def reading(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """The state, and the open safetensors file. Raises CheckpointError for a folder without them, or damaged ones."""
    if not (folder / STATE).is_file() or not (folder / TENSORS).is_file():
        raise CheckpointError(f"{folder} holds no learner checkpoint: it has no {STATE} with a {TENSORS}")
    try:
        state = json.loads((folder / STATE).read_text())
        with safe_open(folder / TENSORS, framework="pt") as tensors:
            yield state, tensors
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"the learner checkpoint in {folder} cannot be read: {error}") from error


def check_shapes(folder: Path, tensors: Any, expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the file holds these tensors, in these shapes."""
    saved = {name: tuple(tensors.get_slice(name).get_shape()) for name in sorted(tensors.keys())}
    here = {name: tuple(one.shape) for name, one in expected.items()}
    different = sorted(name for name in saved.keys() | here.keys() if saved.get(name) != here.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            f"the learner checkpoint in {folder} is of another model or adapter: {len(different)} tensors"
            f" differ, such as {name}, of shape {saved.get(name)} there and {here.get(name)} here; resume with the"
            " model and the learner.adapter it was made with"
        )


def random_state() -> dict[str, Tensor | None]:
    """Where the random numbers of this process are."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """What torch.load(weights_only=True) reads. Raises OSError."""
    try:
        torch.save(state, path)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(str(error)) from error


def read_random_state(folder: Path, rank: int) -> None:
    """Go on with the random numbers of this rank, where the checkpoint has them."""
    file = folder / RANDOM.format(rank=rank)
    if not file.is_file():
        return
    state = torch.load(file, weights_only=True)
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
