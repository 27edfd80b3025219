"""Folders that are costly to build and depend only on their ingredients: built once, kept by content, never half.

A build writes into a temporary folder beside its final place and is renamed when complete, so a killed build leaves
nothing that looks finished, and of two builds at the same time one wins and both get a whole folder.
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestration.models.errors import ModelError

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """`$TEMPER_CACHE`, else `~/.cache/temper`."""
    return Path(os.environ.get("TEMPER_CACHE") or Path.home() / ".cache" / "temper")


def content_key(*parts: str | bytes) -> str:
    """16 hex digits of everything a build depends on; the borders between parts count."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def source_of(modules: Iterable[object]) -> bytes:
    """The source files of modules, one after the other: a build whose code changed is another build."""
    return b"\0".join(Path(module.__file__).read_bytes() for module in modules)


def cached_folder(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `<cache>/<name>-<key>`; `build(temporary folder)` fills it when it is not there yet.

    Raises ModelError when the cache cannot be written; what `build` raises passes through and leaves nothing behind.
    """
    folder = cache_root() / f"{name}-{key}"
    if folder.is_dir():
        log.info("found %s in the cache", folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    except OSError as error:
        raise ModelError(
            f"the model cache {folder.parent} cannot be written ({error}): set TEMPER_CACHE to a folder that can"
        ) from error
    try:
        build(staging)
        try:
            staging.rename(folder)
        except OSError:
            if not folder.is_dir():  # not the case that another process finished the same build first
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder
