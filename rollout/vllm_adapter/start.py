"""What an engine is started with: arguments, and the environment variables vLLM reads when it is imported."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import safe_open

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.errors import RolloutError
from rollout.vllm_adapter.draft_length import schedule_of


def environment(config: RolloutConfig) -> dict[str, str]:
    """Variables that must be set before vLLM is imported in the worker's process (Ray's runtime_env)."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if config.engine == "in_process" else "1",
        "VLLM_USE_V2_MODEL_RUNNER": str(int(config.model_runner == "v2")),  # each has its own seams for the draw
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(config.threads),
        **KEEP_LARGE_BLOCKS,
    }


def register_architecture(architectures: Sequence[str], *, optional: bool = False) -> None:
    """On CPU, load the model's class here: vLLM would inspect it in a subprocess, which takes five seconds longer.

    (The subprocess is there to keep CUDA out of this process, so on a GPU it stays.)
    """
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for architecture in architectures:
        known = ModelRegistry.models.get(architecture)
        if known is None and optional:
            continue
        if known is None:
            raise RolloutError(f"vLLM does not know the architecture {architecture}: choose a model it supports")
        ModelRegistry.register_model(architecture, known.load_model_cls())


# glibc gives blocks of megabytes back to the kernel after every use, and taking [rows, vocab] anew costs more page
# faults than the softmax in it costs time (64 x 32k: 9.6 against 2.7 ms).
KEEP_LARGE_BLOCKS = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
MTP_CLASSES = ("MTPModel", "MTP")  # what vLLM appends to the policy's name
MTP_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")  # as model configs call their number
# Keys and values are shared between the responses of a group in whole blocks of so many tokens. The smallest that
# vLLM's attention on CPU takes: at its own choice, 128, a shorter prompt is computed once for every response
# (16 responses to 100 tokens: 584 against 69 ms; decoding is equally fast). On a GPU vLLM chooses 16.
CPU_BLOCK_TOKENS = 32


def speculation(config: SpeculativeConfig, shape: dict, model: Path) -> dict | None:
    """vLLM's speculative_config. Raises RolloutError where the model or the draft model cannot do it."""
    if config.method == "none":
        return None
    arguments = {
        "method": config.method,
        "num_speculative_tokens": config.tokens,
        "draft_sample_method": config.drafts,
        "rejection_sample_method": "standard",
    }
    if config.adaptive:
        arguments["num_speculative_tokens_per_batch_size"] = schedule_of(config.tokens)
    if config.method == "ngram":
        arguments |= {"prompt_lookup_min": config.ngram_min, "prompt_lookup_max": config.ngram_max}
        del arguments["draft_sample_method"]
    if config.method == "mtp" and not any(shape.get(layers) for layers in MTP_LAYERS):
        raise RolloutError(
            "speculative=mtp, but the config.json of the model names no multi-token-prediction layers"
            f" ({' or '.join(MTP_LAYERS)}): choose a model that has them, or speculative=ngram or none"
        )
    if config.method == "mtp" and not any(_is_drafting(name, shape) for name in _tensor_names(model)):
        raise RolloutError(
            f"speculative=mtp, but the safetensors in {model} hold no multi-token-prediction layer although config.json"
            " names one: choose a model that ships them, or speculative=ngram or none"
        )
    if config.method == "mtp":
        stems = [name.removesuffix("ForCausalLM") for name in shape.get("architectures") or ()]
        register_architecture([stem + ending for stem in stems for ending in MTP_CLASSES], optional=True)
    if config.method == "draft_model":
        file = Path(config.model) / "config.json"
        if not file.is_file():
            raise RolloutError(f"speculative.model should be a Hugging Face folder, but {file} does not exist")
        draft = json.loads(file.read_text())
        if draft.get("vocab_size") != shape.get("vocab_size"):
            raise RolloutError(
                f"speculative.model has a vocabulary of {draft.get('vocab_size')} tokens and the policy one of"
                f" {shape.get('vocab_size')}: they must be the same"
            )
        register_architecture(draft.get("architectures") or ())
        arguments["model"] = config.model
    return arguments


def _tensor_names(model: Path) -> Iterator[str]:
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "numpy") as tensors:
            yield from tensors.keys()


def _is_drafting(name: str, shape: dict) -> bool:
    """Called mtp (MiMo, Qwen3.5, Ernie), or a layer behind the last of the policy (DeepSeek, GLM)."""
    layer = re.search(r"\blayers\.(\d+)\.", name)
    behind = layer is not None and int(layer[1]) >= shape.get("num_hidden_layers", math.inf)
    return "mtp" in name or behind


SLEEP_LEVEL = 1  # weights are kept on the host: an update that is refused must leave the version there was

# Where the draw is installed, by rollout.model_runner.
SEAMS = {
    "v1": {
        "worker_cls": "rollout.vllm_adapter.worker.TemperWorker",
        "scheduler_cls": "rollout.vllm_adapter.scheduler.scheduler",  # vLLM's, which passes on what truncation kept
    },
    "v2": {
        "worker_cls": "rollout.vllm_adapter.model_runner_v2.TemperWorkerV2",
        "logits_processors": ["rollout.vllm_adapter.model_runner_v2:Temperatures"],
    },
}


def engine_arguments(config: RolloutConfig, drafting: SpeculativeConfig, model: Path, seed: int) -> dict:
    """Keyword arguments of vLLM's EngineArgs."""
    os.environ.update(environment(config))
    shape = json.loads((model / "config.json").read_text())
    positions = shape.get("max_position_embeddings", config.max_model_len)
    if config.max_model_len > positions:
        raise RolloutError(
            f"rollout.max_model_len={config.max_model_len} but the model in {model} has positions for {positions}"
            f" tokens: set rollout.max_model_len={positions} or less"
        )
    register_architecture(shape.get("architectures") or ())
    from vllm.platforms import current_platform

    if config.model_runner == "v2" and current_platform.is_cpu():
        raise RolloutError("rollout.model_runner=v2 runs on GPUs alone: set rollout.model_runner=v1")
    return {
        "model": str(model),
        "skip_tokenizer_init": True,  # tokens in, tokens out; the worker decodes finished responses itself
        "dtype": config.dtype,
        "seed": seed,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": max(config.max_model_len, 4096),
        "block_size": CPU_BLOCK_TOKENS if current_platform.is_cpu() else None,
        "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
        "enforce_eager": config.enforce_eager,
        "enable_sleep_mode": config.sleep and current_platform.is_sleep_mode_available(),
        "enable_prefix_caching": config.prefix_caching,
        "tensor_parallel_size": config.tensor_parallel,
        "logprobs_mode": "processed_logprobs",
        **SEAMS[config.model_runner],
        "weight_transfer_config": {"backend": "temper"},
        "scheduling_policy": "priority",
        "disable_log_stats": False,  # stats.py reads them
        "speculative_config": speculation(drafting, shape, model),
        "per_request_spec_decode_metrics": "none" if drafting.method == "none" else "summary",
        "generation_config": "vllm",  # sampling is decided by the request alone, never by the model folder
    }
