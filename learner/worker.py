"""LearnerWorker: one rank of the learner. Scored groups go in, a step is taken, new weights come out.

    train(batch)   micro-batches -> forward -> objective -> backward ... -> checks -> optimizer step -> StepReport
                   and before it, where the objective trains one, a step of the temperature head; after it, where
                   learner.drafter trains one, a step of the drafter
    publish()      Publication + payload of the current version
    score(drawn)   what the current version says of rollouts: entropy, log-probability, place of every token
    begin_save / finish_save / load
                   weights, optimizer, controllers, random state and version, continued bit for bit

A plain class: orchestration turns it into Ray actors and calls every method on all ranks at the same time.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from learner import checkpoint
from learner.adapters import attach
from learner.adapters.reference import Unadapted
from learner.answers import Answers, own_peers, peers_of
from learner.balance import context_cost
from learner.batch import MicroBatch, Trained, counts_of, minibatches, shares, trained_part
from learner.broadcast import Broadcaster
from learner.config import LearnerConfig
from learner.drafter.online import DrafterLearner
from learner.engine import Engine, join
from learner.errors import BatchError, CheckpointError, DivergedError, MismatchError
from learner.forward import Policy, token_stats
from learner.gpu_memory import Lender
from learner.measures import Measures, combine, reduce
from learner.messages import Publication, StepReport, TrainBatch
from learner.model import export_model, load_model
from learner.objective import Counts, Objective, TokenStats
from learner.publish import probe_of, publication
from learner.recompute import recompute_layers
from learner.score import score
from learner.step_metrics import IDLE, agreement, batch_metrics, entropy_with_untrained
from learner.temperature_head import HeadLearner
from learner.writing import BackgroundWriter, Writing
from rollout.draw.fit import Drawn, Recomputed

logger = logging.getLogger(__name__)


class LearnerWorker:
    """Raises ModelError when the model cannot be loaded or evaluated, ValueError for an impossible configuration."""

    def __init__(
        self,
        model_path: str,
        config: LearnerConfig,
        objective: Objective,
        rank: int,
        world_size: int,
        master_addr: str,
        master_port: int,
        seed: int,
        total_steps: int,
    ) -> None:
        if world_size != config.ranks:
            raise ValueError(f"learner.ranks is {config.ranks}, but the learner was started with {world_size} ranks")
        torch.set_num_threads(config.threads)
        torch.manual_seed(seed + rank)
        self.model_path = model_path
        self.config = config
        self.objective = objective
        self.rank = rank
        self.world_size = world_size
        self.total_steps = total_steps
        device = join(rank, world_size, master_addr, master_port)
        model = load_model(model_path, config.torch_dtype, device)
        objective.check(model.config.get_text_config().vocab_size)
        if config.adapter is not None:
            attach(model, config.adapter, seed)
        if config.activation_checkpointing:
            recompute_layers(model)
        self.policy = Policy(model, layout=config.layout, head_chunk_mib=config.head_chunk_mib)
        self._context_cost = context_cost(model.config.get_text_config().hidden_size)
        self.policy.observe(objective.attention)
        self.answers = Answers(objective.answer, model_path) if objective.answer else None
        self.engine = Engine(self.policy, config, world_size)
        self.reference: Policy | Unadapted | None = None
        if objective.reference and config.adapter is not None:
            self.reference = Unadapted(self.policy)
        elif objective.reference:  # whole on every rank; a resumed run starts from the same folder
            frozen = load_model(model_path, config.torch_dtype, device).requires_grad_(False)
            self.reference = Policy(frozen, layout=config.layout, head_chunk_mib=config.head_chunk_mib)
        self.head = HeadLearner(objective.head, self.policy, model_path, world_size) if objective.head else None
        self.drafter: DrafterLearner | None = None
        if config.drafter is not None:
            self.drafter = DrafterLearner(
                config.drafter, self.policy, model_path, rank, world_size, config.micro_batch_tokens
            )
        self.controller_states = {name: dict(piece.start()) for name, piece in objective.controllers.items()}
        self._version = 0
        self._lender = Lender()
        self._broadcaster: Broadcaster | None = None
        self._writer = BackgroundWriter()

    @property
    def version(self) -> int:
        """Number of train batches these weights have seen."""
        return self._version

    def train(self, batch: TrainBatch) -> StepReport:
        """Take the optimizer steps of one batch; the weights are then of version `batch.step + 1`.

        Raises BatchError for a batch that starts from another version, DivergedError for a loss or gradient norm that
        is not finite, MismatchError when engine and learner disagree by more than `learner.mismatch_kl_limit`.
        """
        started = time.perf_counter()
        if batch.step != self._version:
            raise BatchError(f"train batch of step {batch.step} was sent to a learner at version {self._version}")
        objective = self.objective.controlled(self.controller_states)
        trained = trained_part(batch, objective)
        if self.answers is not None:
            trained = self.answers.find(trained)
        lr = self.config.lr_at(batch.step, self.total_steps)
        metrics = IDLE | batch_metrics(batch, trained) | trained.metrics | {"train/lr": lr}
        if trained.samples:  # otherwise there is nothing to learn from: the weights stay, the version moves on
            metrics |= self._learn(objective, trained, lr, batch.step)
        if self.drafter is not None:  # for the weights that are published next, on all that was drawn
            metrics |= self.drafter.step(self.policy, batch.samples, self.engine.gathered, batch.step)
        metrics["entropy/mean"] = entropy_with_untrained(metrics["entropy/mean"], batch, trained)
        self.controller_states = {
            name: dict(piece.update(self.controller_states[name], metrics))
            for name, piece in objective.controllers.items()
        }
        self._version += 1
        if 0 < self.config.num_gpus < 1:  # an engine shares this GPU, and is about to wake
            torch.cuda.empty_cache()
        metrics["learner/step_s"] = time.perf_counter() - started
        return StepReport(version=self._version, metrics=metrics)

    def publish(
        self, folder: str | None = None, on_gpu: bool = False, address: str | None = None
    ) -> tuple[Publication, np.ndarray | str | bytes]:
        """The current weights, ready to be sent, and the record that vouches for them (see learner.publish).

        `folder`: rank 0 writes them there as a file; `on_gpu`: they stay on this rank's GPU; `address`: of rank 0's
        host, from which engines fetch them.
        """
        probe = probe_of(self.policy)
        heads = (self.head.tensors() if self.head else {}) | (self.drafter.tensors() if self.drafter else {})
        with self.engine.gathered():
            way_out = self._way_out(folder, on_gpu, address)
            merged = self.config.adapter is not None and self.config.adapter.publish == "merged"
            return publication(self.policy, self._version, probe, heads, way_out, merged=merged)

    def score(self, responses: Sequence[Drawn]) -> tuple[int, list[Recomputed]]:
        """The version, and what its weights say of drawn responses: one Recomputed each. Nothing is trained."""
        with self.engine.gathered():
            return self._version, score(self.policy, responses, self.config.micro_batch_tokens, self._version)

    def begin_save(self, folder: str | Path, policy: str | Path | None = None) -> None:
        """Copy everything `load` needs and begin to write it into `folder`; and into `policy` what `export` writes.

        What is written is as of now, whatever is trained meanwhile (learner/writing.py). An earlier save is waited for.
        Making the folder appear atomically is the caller's part.
        """
        self._writer.wait()
        folder, writing = Path(folder), Writing(copied=self.config.copy_checkpoints)
        state = {"version": self._version, "controllers": self.controller_states, "model": str(self.model_path)}
        self.engine.save(folder, state, writing)
        random = writing.hold(checkpoint.random_state())
        file = folder / checkpoint.RANDOM.format(rank=self.rank)
        writing.add(file, lambda path: checkpoint.write_state(path, random))
        if self.head is not None and self.rank == 0:
            self.head.save(folder, writing)
        if self.drafter is not None and self.rank == 0:
            self.drafter.save(folder, writing)
        if policy is not None:
            self._export(Path(policy), writing)
        self._writer.begin(folder, writing)

    async def finish_save(self, folder: str | Path) -> dict[str, int]:
        """When all that `begin_save` began is on disk: bytes of every file that this rank wrote, by path.

        Raises CheckpointError where the disk refused. Any thread may wait for it.
        """
        return await asyncio.wrap_future(self._writer.begun(Path(folder)))

    def save(self, folder: str | Path, policy: str | Path | None = None) -> None:
        """Begin and finish; when it returns, any rank can load."""
        try:
            self.begin_save(folder, policy)
            self._writer.begun(Path(folder)).result()
        finally:
            dist.barrier()

    def load(self, folder: str | Path) -> None:
        """Continue from a checkpoint of the same model and adapter, made by any number of ranks at any ZeRO stage.

        Raises CheckpointError.
        """
        folder = Path(folder)
        state = self.engine.load(folder)
        if set(state["controllers"]) != set(self.controller_states):
            raise CheckpointError(
                f"{folder} was made with the controllers {sorted(state['controllers'])},"
                f" the objective has {sorted(self.controller_states)}"
            )
        if self.head is not None:
            self.head.load(folder)
        if self.drafter is not None:
            self.drafter.load(folder)
        self._version = state["version"]
        self.controller_states = state["controllers"]
        checkpoint.read_random_state(folder, self.rank)

    def export(self, folder: str | Path) -> None:
        """Write weights, config and tokenizer as a Hugging Face folder; rank 0 writes, the others help to gather."""
        writing = Writing(copied=False)
        self._export(Path(folder), writing)
        writing.run()

    def _export(self, folder: Path, writing: Writing) -> None:
        with self.engine.gathered():
            if self.rank == 0:
                export_model(self.policy.model, self.model_path, folder, writing)
                if self.head is not None:
                    self.head.export(folder, writing)
                if self.drafter is not None:
                    self.drafter.export(folder, writing)

    def _way_out(self, folder: str | None, on_gpu: bool, address: str | None) -> Path | Lender | Broadcaster | None:
        if on_gpu:
            return self._lender
        if self.rank > 0:
            return None
        if address is not None and self._broadcaster is None:
            self._broadcaster = Broadcaster(address)
        return Path(folder) if folder is not None else self._broadcaster

    def _learn(self, objective: Objective, trained: Trained, lr: float, step: int) -> dict[str, float]:
        """One optimizer step per minibatch; metrics are means over them."""
        parts = []
        for indices in minibatches(trained, self.config.minibatches):
            part = trained.part(indices)
            plan = shares(part.samples, self.world_size, self.config.micro_batch_tokens, self._context_cost)[self.rank]
            parts.append((part, [self.policy.micro_batch(part, share) for share in plan]))
        head_metrics = {}
        if self.head is not None:
            with self.engine.gathered():
                micros = [micro for _, micros in parts for micro in micros]
                head_metrics = self.head.step(self.policy, micros, objective, counts_of(trained.samples), step)
        frozen = [[None] * len(micros) for _, micros in parts]
        if len(parts) > 1:  # the policy is about to move under the later minibatches
            frozen = [[self._logprobs_now(micro) for micro in micros] for _, micros in parts]
        reports = [
            self._optimizer_step(objective, part, micros, lp_old, lr, step)
            for (part, micros), lp_old in zip(parts, frozen, strict=True)
        ]
        return {
            name: max(values) if name.endswith("max_abs") else sum(values) / len(values)
            for name in reports[0]
            if (values := [report[name] for report in reports])
        } | {
            "learner/forward_tokens": float(sum(micro.tokens.numel() for _, micros in parts for micro in micros)),
            **head_metrics,
        }

    @torch.no_grad()
    def _logprobs_now(self, micro: MicroBatch) -> Tensor:
        return self.engine(micro)[0]

    @torch.no_grad()
    def _logprobs_of_reference(self, micro: MicroBatch) -> Tensor | None:
        return self.reference(micro)[0] if self.reference is not None else None

    def _statistics(self, objective: Objective, micro: MicroBatch, lp_old: Tensor | None) -> TokenStats:
        reads = objective.reads
        compared = self.reference.as_reference(micro) if any(read.reference for read in reads) else None
        taught = self.policy.as_teacher(micro) if objective.teacher else None
        answers = "too" if objective.answer else "none"
        lp, entropy, *values = self.engine(micro, reads, compared, taught, objective.attention, answers)
        states = values.pop() if objective.answer else None
        return token_stats(
            micro,
            lp,
            entropy,
            lp_old,
            objective.needs,
            self._logprobs_of_reference(micro) if "lp_ref" in objective.needs else None,
            dict(zip((*reads, *objective.attention), values, strict=True)),
            states,
        )

    def _optimizer_step(
        self,
        objective: Objective,
        part: Trained,
        micros: Sequence[MicroBatch],
        lp_old: Sequence[Tensor | None],
        lr: float,
        step: int,
    ) -> dict[str, float]:
        counts = counts_of(part.samples)
        peers = peers_of(self.engine, micros, part, self.world_size) if objective.answer else None
        measured: list[Measures] = []
        for place, (micro, old) in enumerate(zip(micros, lp_old, strict=True)):
            stats = self._statistics(objective, micro, old)
            if objective.answer:
                stats = replace(stats, peers=peers or own_peers(stats))
            loss, measures = objective(stats, counts)
            term, found = self._adapter_terms(micro, counts)
            self.engine.accumulate(loss + term, last=place == len(micros) - 1)
            measured.append(dict(measures) | found | agreement(stats))
        metrics = reduce(combine(measured), self.world_size)
        self._check(metrics, step)  # before the weights move; every rank sees the same numbers and raises alike
        metrics["train/grad_norm"] = self.engine.step(lr)
        if not math.isfinite(metrics["train/grad_norm"]):
            raise DivergedError(
                f"step {step}: train/grad_norm is {metrics['train/grad_norm']}; lower learner.lr or resume from the"
                " last checkpoint"
            )
        if self.config.adapter is not None:
            self.config.adapter.after_step(self.policy.model, self.world_size)
        return metrics

    def _adapter_terms(self, micro: MicroBatch, counts: Counts) -> tuple[Tensor | float, Measures]:
        """What the adapter adds to the loss of the micro-batch that just went forward."""
        if self.config.adapter is None:
            return 0.0, {}
        return self.config.adapter.terms(self.policy.model, micro.node_rows, int(micro.mask.sum()), counts.tokens)

    def _check(self, metrics: dict[str, float], step: int) -> None:
        for name in ("train/loss", "entropy/mean", "mismatch/kl"):
            if not math.isfinite(metrics[name]):
                raise DivergedError(
                    f"step {step}: {name} is {metrics[name]}; lower learner.lr or resume from the last checkpoint"
                )
        if metrics["mismatch/kl"] > self.config.mismatch_kl_limit:
            raise MismatchError(
                f"step {step}: mismatch/kl between the engine's recorded log-probabilities and the learner's is"
                f" {metrics['mismatch/kl']:.3g} nats per token, above learner.mismatch_kl_limit ="
                f" {self.config.mismatch_kl_limit}: check that weights reach the engine, or lower learner.lr or"
                " run.max_staleness"
            )
