"""The journal: everything that happened in a run, written down before it is acted upon. One SQLite file in its folder.

    event        --record-------> events     everything, in order
    action       --start--------> groups     one row per admitted group: its task, its attempts, the step that took it
    responses    --add_draw-----> draws, rollouts   what was drawn for a task, and how each of its tokens
    judgements   --add_verdicts-> verdicts
    a new start  --resume(v)----> lineages   what the checkpoint of version v does not hold is rolled back
                                 draws       what rolled-back weights drew is forgotten; the rest is taken up again

schema.py is the file's description, docs/run_folder.md the same for people who read it with their own tools.
"""

from orchestration.journal.draws import Draw
from orchestration.journal.journal import Journal, Leftover

__all__ = ["Draw", "Journal", "Leftover"]
