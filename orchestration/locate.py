"""From what a person names to a checkpoint: a run folder stands for its newest, a checkpoint's folder for itself."""

from pathlib import Path

from orchestration.checkpoint_store import LATEST
from orchestration.errors import ConfigError
from orchestration.run_folder import RunFolder

POLICY = "policy"  # inside a checkpoint: a Hugging Face folder


def find_checkpoint(path: Path) -> tuple[RunFolder, Path]:
    """The run, and the folder of one of its checkpoints. Raises ConfigError where there is none."""
    path = path.resolve()
    if (path / "config.yaml").is_file():
        root, checkpoint = path, path / "checkpoints" / LATEST
    else:
        root, checkpoint = path.parent.parent, path
    if not (checkpoint / POLICY / "config.json").is_file():
        raise ConfigError(
            f"{path} holds no policy: name a run folder with a checkpoint (it has one from run.checkpoint_every on), or"
            " one of its checkpoints, such as runs/latest/checkpoints/version_000020"
        )
    return RunFolder.open(root), checkpoint.resolve()
