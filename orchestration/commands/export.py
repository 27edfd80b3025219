"""Take a policy out of a run: a Hugging Face folder that transformers and vLLM load.

temper export runs/latest my-policy                                   the newest checkpoint
temper export runs/latest/checkpoints/version_000020 my-policy        an earlier one
temper export runs/latest my-adapter --adapter                        what LoRA trained, as a folder of peft

Adapters are merged into the weights unless --adapter is given; a drafter, tokenizer and temperature head come along.
"""

import argparse
import shutil
import sys
from pathlib import Path

from orchestration.checkpoint_store import damage_of
from orchestration.config import load_saved_plan
from orchestration.errors import CheckpointError, ConfigError
from orchestration.locate import POLICY, find_checkpoint
from orchestration.process import prepare

UNFINISHED = ".unfinished"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="run folder or checkpoint folder")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--adapter", action="store_true", help="the trained LoRA alone, as peft keeps it")


def run(arguments: argparse.Namespace) -> int:
    prepare()
    folder, checkpoint = find_checkpoint(arguments.checkpoint)
    target = arguments.target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{arguments.target} exists and is not empty: name a folder that is not there yet")
    if damage := damage_of(checkpoint):
        raise CheckpointError(f"the checkpoint {checkpoint} is damaged ({damage}): export another one of the run")
    unfinished = target.with_name(target.name + UNFINISHED)
    try:
        if unfinished.exists():
            shutil.rmtree(unfinished)
        target.parent.mkdir(parents=True, exist_ok=True)
        if arguments.adapter:
            from learner.adapters.peft_folder import write_peft_folder

            write_peft_folder(load_saved_plan(folder.config, []).learner.adapter, checkpoint, unfinished)
        else:
            shutil.copytree(checkpoint / POLICY, unfinished)
        unfinished.replace(target)
    except OSError as error:
        raise ConfigError(f"{arguments.target} cannot be written: {error}") from error
    sys.stdout.write(f"{arguments.target}\n")
    return 0
