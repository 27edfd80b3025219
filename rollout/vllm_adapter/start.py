"""What an engine is started with: arguments, and the environment variables vLLM reads when it is imported."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rollout.config import RolloutConfig
from rollout.errors import RolloutError


def environment(config: RolloutConfig) -> dict[str, str]:
    """Variables that must be set before vLLM is imported in the worker's process (Ray's runtime_env)."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if config.engine == "in_process" else "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # the sampler seam is the V1 runner's
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(config.threads),
    }


def register_architecture(architectures: Sequence[str]) -> None:
    """On CPU, load the model's class here: vLLM would inspect it in a subprocess, which takes five seconds longer.

    (The subprocess is there to keep CUDA out of this process, so on a GPU it stays.)
    """
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for architecture in architectures:
        known = ModelRegistry.models.get(architecture)
        if known is None:
            raise RolloutError(f"vLLM does not know the architecture {architecture}: choose a model it supports")
        ModelRegistry.register_model(architecture, known.load_model_cls())


def engine_arguments(config: RolloutConfig, model: Path, seed: int) -> dict:
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
    return {
        "model": str(model),
        "skip_tokenizer_init": True,  # tokens in, tokens out; the worker decodes finished responses itself
        "dtype": config.dtype,
        "seed": seed,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": max(config.max_model_len, 4096),
        "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
        "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": config.prefix_caching,
        "tensor_parallel_size": config.tensor_parallel,
        "logprobs_mode": "processed_logprobs",
        "worker_cls": "rollout.vllm_adapter.worker.TemperWorker",
        "weight_transfer_config": {"backend": "temper"},
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "generation_config": "vllm",  # sampling is decided by the request alone, never by the model folder
    }
