"""A trained LoRA as a folder of peft: from the adapter and the checkpoint that holds it, without the model."""

from pathlib import Path

from safetensors.torch import save_file

from learner import checkpoint
from learner.adapters.lora import Lora
from learner.adapters.merge import PEFT_PREFIX
from learner.errors import ModelError
from learner.masters import WEIGHT

POLICY = "model."  # before the names of a policy's model


def write_peft_folder(adapter: object, trained: Path, folder: Path) -> None:
    """Write what `PeftModel.from_pretrained(model, folder)` loads; `trained` is a checkpoint of the learner.

    Raises ModelError for an adapter that peft has no name for, CheckpointError for a checkpoint that cannot be read.
    """
    if not isinstance(adapter, Lora):
        raise ModelError(
            f"this run's learner.adapter is {type(adapter).__name__ if adapter else 'none'}: only plain LoRA"
            " (adapter=lora, lora_kappa) is an adapter of peft; export whole weights instead"
        )
    from peft import LoraConfig

    with checkpoint.reading(trained) as (state, tensors):
        names = [name for name in sorted(tensors.keys()) if name.startswith(f"{WEIGHT}/")]
        layers = [name.removeprefix(f"{WEIGHT}/{POLICY}").rpartition(".lora_") for name in names]
        found = {
            f"{PEFT_PREFIX}{layer}.lora_{factor.partition('.')[0]}.weight": tensors.get_tensor(name)
            for name, (layer, _, factor) in zip(names, layers, strict=True)
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(found, folder / "adapter_model.safetensors", {"format": "pt"})
    LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rank_stabilised,
        target_modules=sorted({layer for layer, _, _ in layers}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=state["model"],
        inference_mode=True,
    ).save_pretrained(folder)
