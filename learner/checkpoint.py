"""The files of a checkpoint: everything trained, whole and by name, so that any number of ranks can go on from it.

    trained.safetensors   float32 weight/<parameter>, exp_avg/<parameter>, exp_avg_sq/<parameter>, and buffer/<name>
    learner.json          version, controllers, optimizer steps, and the model folder the run started from
    random-<rank>.pt      where each rank's random numbers are; a rank that has none starts as in a new run

Tensors are written by rank 0, one after the other as they are gathered, and read by every rank. Weights that are not
trained are those of the model folder.
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


def write(
    folder: Path | None, state: Mapping[str, Any], shapes: Mapping[str, Tensor], values: Iterable[Tensor]
) -> None:
    """Write `values`, whose names, shapes and types `shapes` lists in their order; without a folder only take them.

    Raises OSError, but takes every value first: other ranks help to make each and would wait for ever.
    """
    failure = None
    file = None
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / STATE).write_text(json.dumps(state, indent=1))
            file = (folder / TENSORS).open("wb")
            file.write(layout(shapes, {})[0])
        except OSError as error:
            failure = error
    for value in values:
        if file is not None and failure is None:
            try:
                file.write(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            except OSError as error:
                failure = error
    try:
        if file is not None:
            file.close()
    except OSError as error:
        failure = failure or error
    if failure is not None:
        raise failure


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


def write_random_state(folder: Path, rank: int) -> None:
    """Raises OSError."""
    state = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}
    try:
        torch.save(state, folder / RANDOM.format(rank=rank))
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
