"""What a journal still has of rollouts, as one Parquet file: a row per response, in order of admission.

    journal.sqlite --read only, also beside a run--> BATCH_BYTES of rows at a time --> file.parquet

`step` is NULL for what was not trained (yet); `rejected`: another task took its place. Arrays are lists, one entry per
response token, but for prompt_ids.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.errors import JournalError
from orchestration.journal.draws import array
from orchestration.journal.schema import BOOL, FLOAT, INT, VERSION

BATCH_BYTES = 64 * 2**20  # of arrays in memory at once; one row group of the file

COLUMNS = {
    "step": pa.int64(),
    "group": pa.int64(),
    "task": pa.int64(),
    "sample": pa.int32(),
    "task_id": pa.string(),
    "prompt": pa.string(),
    "text": pa.string(),
    "finish_reason": pa.string(),
    "reward": pa.float64(),
    "rejected": pa.bool_(),
    "status": pa.string(),
    "components": pa.string(),
    "detail": pa.string(),
    "prompt_ids": pa.list_(pa.int32()),
    "response_ids": pa.list_(pa.int32()),
    "sampler_logprobs": pa.list_(pa.float32()),
    "temperatures": pa.list_(pa.float32()),
    "entropies": pa.list_(pa.float32()),
    "versions": pa.list_(pa.int32()),
    "policy_drawn": pa.list_(pa.bool_()),
    "kept_ids": pa.list_(pa.int32()),
    "kept_counts": pa.list_(pa.int32()),
    "head_changes": pa.list_(pa.bool_()),
    "head_logprobs": pa.list_(pa.float32()),
    "drafted_tokens": pa.int64(),
    "seconds": pa.float64(),
}
FROM_BLOBS = {
    **dict.fromkeys(("prompt_ids", "response_ids", "kept_ids", "kept_counts"), INT),
    **dict.fromkeys(("sampler_logprobs", "temperatures", "entropies", "head_logprobs"), FLOAT),
    **dict.fromkeys(("policy_drawn", "head_changes"), BOOL),
}
QUERY = """
SELECT groups.trained_step AS step, draws.group_id AS "group", draws.task_index AS task, sample, draws.task_id, prompt,
    text, finish_reason, reward, rejections.task_index IS NOT NULL AS rejected, status, components, detail, prompt_ids,
    response_ids, sampler_logprobs, temperatures, entropies, spans AS versions, policy_drawn, kept_ids, kept_counts,
    head_changes, head_logprobs, drafted_tokens, rollouts.seconds AS seconds
FROM draws JOIN rollouts USING (task_index) LEFT JOIN verdicts USING (task_index, sample)
    LEFT JOIN rejections ON rejections.task_index = draws.task_index
    LEFT JOIN groups ON groups.lineage = draws.lineage AND groups.group_id = draws.group_id
        AND groups.task_index = draws.task_index AND state = 'trained'
ORDER BY draws.task_index, sample
"""


def export_rollouts(journal: Path, to: Path) -> int:
    """Write `to`, which appears when it is complete; returns the number of rows. Raises JournalError."""
    database = _open(journal)
    partial = to.with_name(f".writing-{to.name}")
    rows = 0
    try:
        with pq.ParquetWriter(partial, pa.schema(COLUMNS), compression="zstd") as writer:
            for batch in _batches(database.execute(QUERY)):
                writer.write_table(pa.table(batch, schema=pa.schema(COLUMNS)))
                rows += len(batch["task"])
        if not rows:
            raise JournalError(
                f"{journal} keeps no rollouts: those of trained steps go after run.keep_rollouts steps; set it to null"
                " (all) for runs to be exported"
            )
        partial.replace(to)
    except sqlite3.Error as error:
        raise JournalError(
            f"{journal} cannot be read ({error}): is it on a disk that works, and, on one that hosts share, has the run"
            " ended?"
        ) from error
    except OSError as error:
        raise JournalError(f"{to} cannot be written ({error}): name another file with --to") from error
    finally:
        partial.unlink(missing_ok=True)
        database.close()
    return rows


def _open(journal: Path) -> sqlite3.Connection:
    if not journal.is_file():
        raise JournalError(f"there is no journal {journal}: name the folder of a run that has begun")
    try:
        database = sqlite3.connect(f"file:{quote(str(journal.resolve()))}?mode=ro", uri=True)
        found = database.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise JournalError(f"{journal} cannot be read ({error}): is it the journal of a run?") from error
    if found != VERSION:
        database.close()
        raise JournalError(
            f"{journal} has tables of version {found or 1}, this Temper reads version {VERSION}: export it with the"
            " Temper that wrote it"
        )
    return database


def _batches(cursor: sqlite3.Cursor) -> Iterator[dict[str, list[Any]]]:
    names = [column[0] for column in cursor.description]
    batch: dict[str, list[Any]] = {name: [] for name in names}
    held = 0
    for row in cursor:
        held += sum(len(value) for value in row if isinstance(value, bytes | str))
        for name, value in zip(names, row, strict=True):
            batch[name].append(_value(name, value))
        if held > BATCH_BYTES:
            yield batch
            batch, held = {name: [] for name in names}, 0
    if batch["task"]:
        yield batch


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "rejected":
        return bool(value)
    if name == "versions":
        return np.concatenate([np.full(end - start, one, np.int32) for one, start, end in json.loads(value)])
    return array(value, FROM_BLOBS[name]) if name in FROM_BLOBS else value
