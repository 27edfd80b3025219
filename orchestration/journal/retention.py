"""What a journal keeps of rollouts, so that its file stays bounded.

step trained --every few--> draws of trained and rejected tasks, older than `keep_rollouts` steps --> deleted
                            but for those that a resume from a checkpoint could take up
many pages unused           --> given back to the file system
"""

import sqlite3

SWEEPS = 8  # per keep_rollouts steps: draws are deleted in sweeps, so a step pays for a few of its own only
FREE_SHARE = 0.25  # of the file's pages may be unused before they are given back
VACUUM_PAGES = 2_000  # at once, 8 MB: the run waits for it


def delete_draws(database: sqlite3.Connection, *, until: int, checkpoints: tuple[int, int]) -> None:
    """Delete the draws of tasks done with before version `until`. Inside a transaction.

    `checkpoints` are the versions of the one on disk and the one being written: either may be resumed from, and then
    owes what was trained or rejected after it.
    """
    written, following = checkpoints
    database.execute(
        "DELETE FROM draws WHERE task_index IN"
        " (SELECT task_index FROM draws JOIN groups USING (task_index) WHERE state = 'trained'"
        "  AND trained_step < :until"
        "  AND NOT (trained_step >= :written AND newest_version <= :written)"
        "  AND NOT (trained_step >= :following AND newest_version <= :following)"
        "  UNION ALL"
        "  SELECT task_index FROM draws JOIN rejections USING (task_index) WHERE trained_version < :until"
        "  AND NOT (ifnull(checkpoint > :written, 1) AND newest_version <= :written)"
        "  AND NOT (ifnull(checkpoint > :following, 1) AND newest_version <= :following))",
        {"until": until, "written": written, "following": following},
    )


def give_back(database: sqlite3.Connection) -> None:
    """Shorten the file where much of it is unused; at most VACUUM_PAGES at once."""
    unused, pages = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
    if unused > FREE_SHARE * pages:
        database.execute(f"PRAGMA incremental_vacuum({min(unused, VACUUM_PAGES)})").fetchall()
