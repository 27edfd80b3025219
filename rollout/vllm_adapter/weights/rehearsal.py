"""What a model would take of an update, found out without touching it.

vLLM loads weights by name and leaves alone what no name reaches, without a word: a missing tensor, a tied head that
keeps its old packed copy, a drafter whose layers are called otherwise. So an update is first played through: the model
goes to the meta device, its loaders count instead of keeping, and it comes back exactly as it was.

Seam: the layerwise reload of vLLM 0.32, whose own bookkeeping is used. Check: tests/rollout/test_weights.py.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import (
    _get_original_loader,
    _place_kernel_tensors,
    get_layerwise_info,
)
from vllm.model_executor.model_loader.reload.meta import SKIP_LOAD_TENSORS, get_numel_loaded, to_meta_tensor

PACKED = "cpu_linear"  # what a layer has on CPU when vLLM computes with a packed copy of its weight


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How many parameters the update fills, with how many bytes; the `missing` ones would keep old values."""

    parameters: int
    bytes: int
    missing: tuple[str, ...]


@torch.no_grad()
def rehearse(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], shared: Collection[nn.Module] = ()) -> Rehearsal:
    """Play through the loading of `tensors` into `model`; layers that are `shared` with another model do not count.

    Raises what the model's own loaders raise for names and shapes they do not know.
    """
    reached: Counter[tuple[nn.Module, str]] = Counter()  # elements
    packed = {layer for layer in model.modules() if hasattr(layer, PACKED)}
    originals: list[tuple[nn.Parameter, Callable]] = []
    initialize_layerwise_reload(model)
    try:
        for layer, name, parameter in _parameters(model.modules()):
            originals.append((parameter, _get_original_loader(parameter)))
            parameter.weight_loader = _counting(originals[-1][1], parameter, layer, name, reached)
        with disable_mtp_completeness_check():
            model.load_weights(iter(tensors))
        return _judged(model, reached, packed, shared)
    finally:
        for parameter, loader in originals:  # these are the ones that the real reload will use as well
            parameter.weight_loader = loader
        _put_back(model)


def _judged(
    model: nn.Module,
    reached: Counter[tuple[nn.Module, str]],
    packed: Collection[nn.Module],
    shared: Collection[nn.Module],
) -> Rehearsal:
    filled = [
        (layer, name)
        for layer, name, parameter in _parameters(model.modules())
        if reached[layer, name] >= _loadable(layer, parameter)
    ]
    tied = {id(_kernel_tensor(layer, name)) for layer, name in filled}  # to one that is filled, or filled itself
    own = [(path, layer) for path, layer in model.named_modules() if layer not in shared]
    missing = [
        f"{path}.{name}"
        for path, layer in own
        if not is_deferred_attention_layer(layer)
        for _, name, _ in _parameters([layer])
        if (layer, name) not in filled and (layer in packed or id(_kernel_tensor(layer, name)) not in tied)
    ]
    mine = list(_parameters(layer for _, layer in own))
    return Rehearsal(
        sum((layer, name) in filled for layer, name, _ in mine),
        sum(reached[layer, name] * parameter.element_size() for layer, name, parameter in mine),
        tuple(missing),
    )


def _parameters(layers: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Those that a checkpoint fills."""
    for layer in layers:
        for name, parameter in layer._parameters.items():
            if parameter is not None and name not in SKIP_LOAD_TENSORS:
                yield layer, name, parameter


def _counting(
    original: Callable,
    parameter: nn.Parameter,
    layer: nn.Module,
    name: str,
    reached: Counter[tuple[nn.Module, str]],
) -> Callable[..., object]:
    signature = inspect.signature(original)
    nowhere = parameter if parameter.is_meta else to_meta_tensor(parameter)  # vLLM leaves biases where they are

    def loader(*args: object, **kwargs: object) -> object:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        bound.arguments["param"] = nowhere
        elements, returned = get_numel_loaded(original, bound)
        reached[layer, name] += elements
        return returned

    return loader


def _loadable(layer: nn.Module, parameter: nn.Parameter) -> int:
    """Elements a checkpoint brings: all but the rows that pad a vocabulary."""
    if isinstance(layer, VocabParallelEmbedding):
        return layer.shard_indices.num_org_elements * parameter.numel() // len(parameter)
    return getattr(parameter, "weight_loader_numel", parameter.numel())


def _kernel_tensor(layer: nn.Module, name: str) -> Tensor | None:
    """What the engine computes with; tied layers have the same one."""
    return get_layerwise_info(layer).kernel_tensors[0].get(name)


def _put_back(model: nn.Module) -> None:
    """Undo `initialize_layerwise_reload`: every layer gets back the tensors it computes with."""
    model._do_torchao_reload = model._original_do_torchao_reload
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            _place_kernel_tensors(layer, info)
            info.reset()
