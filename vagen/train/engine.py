"""DeepSpeed behind a small interface; the only file that imports it."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to find out
import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import logger as deepspeed_logger

from vagen.config import ConfigError, Optimizer, Train
from vagen.policy.packing import Batch, PackedLoss
from vagen.policy.work import Work
from vagen.train.allocation import keep_freed_memory
from vagen.train.optimizer import ParameterGroup, parameter_groups
from vagen.train.ranks import free_port, slurm_ranks
from vagen.train.run import micro_batches
from vagen.train.schedule import rate_factor
from vagen.train.stopwatch import Stopwatch

T = TypeVar("T")


@dataclass(frozen=True)
class Wrapped:
    """A model within a module that computes outputs for a packed batch.

    Attributes:
        module: has the model as ``model``.
        groups: parameters of its own.
    """

    module: torch.nn.Module
    groups: tuple[ParameterGroup, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, over all processes.

    Attributes:
        loss: weighted loss per unit of weight; with weights of 1, per supervised token.
        grad_norm: global gradient norm before clipping; with Muon under ZeRO, its matrices count with their updates.
        cell_losses: (C,) summed plain losses of each metrics cell.
        cell_tokens: (C,) supervised tokens of each cell.
        computed: tokens the model went through, padding included.
        work: what there was to compute, of all processes.
        alone: what there would have been to compute without sharing.
        samples: clozes in the step.
        seconds: of this process, by phase; see :class:`Stopwatch`.
    """

    loss: float
    grad_norm: float
    cell_losses: torch.Tensor
    cell_tokens: torch.Tensor
    computed: int
    work: Work
    alone: Work
    samples: int
    seconds: dict[str, float]


def start_processes() -> tuple[int, int]:
    """Join the process group (a group of one where no launcher set one up); returns (rank, ranks).

    May be called again; :func:`stop_processes` belongs to the end of the program, not of a training.
    """
    if torch.distributed.is_initialized():
        return deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    keep_freed_memory()
    os.environ |= slurm_ranks(os.environ)
    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    if gpus := torch.cuda.device_count():
        # Schedulers may show each process its own GPU only, which then has the number 0 in all of them.
        os.environ["LOCAL_RANK"] = str(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        _accelerator().set_device(int(os.environ["LOCAL_RANK"]))  # before the first collective chooses one
    deepspeed_logger.setLevel(logging.WARNING)
    # DeepSpeed still calls collectives by names that torch has replaced: for it to mend, and said once per call site.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Shared-memory communication would be compiled on first use; gloo does without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    return deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()


def stop_processes() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def local_device() -> torch.device:
    """The device of this process: its GPU, or the CPU."""
    return torch.device(_accelerator().device_name(int(os.environ.get("LOCAL_RANK", "0"))))


def local_ranks() -> int:
    """How many processes of the group run on this machine; all of them, where the launcher does not say."""
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):  # of torch's launcher and ours, of DeepSpeed's
        if name in os.environ:
            return int(os.environ[name])
    return deepspeed.comm.get_world_size()


def barrier() -> None:
    """Wait for all processes."""
    deepspeed.comm.barrier()


def largest(number: int) -> int:
    """The largest of the numbers, below 2^63, that the processes give."""
    value = torch.tensor([number], dtype=torch.int64, device=local_device())
    deepspeed.comm.all_reduce(value, op=deepspeed.comm.ReduceOp.MAX)
    return int(value)


def make_universal(checkpoint: Path, universal: Path) -> None:
    """Turn a checkpoint whose states are spread over processes into one that any number of them can load.

    The universal one belongs to the same ZeRO stage.

    Raises:
        ConfigError: it cannot be turned; DeepSpeed's last word says why.
    """
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    folders = ["--input_folder", str(checkpoint), "--output_folder", str(universal)]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(
            f"{checkpoint} cannot be spread over another number of processes ({last}): go on with as many as took it"
        )


def _accelerator() -> Any:
    return get_accelerator()


class Engine:
    """A model under DeepSpeed: forward, backward and update of one optimizer step, and its checkpoints.

    Args:
        model: trained in place, whole and in the CPU's memory on every process; it is brought to the device.
        cells: how many cells the metrics have.
        universal: whether the checkpoint to load will be a universal one.
        wrapped: the model within what computes its outputs, if that has parameters of its own; :meth:`step` wants what
            :class:`PackedLoss` gives, :meth:`update` takes anything.
        factor: the learning rate of each optimizer step relative to the peak; by default as ``optimizer`` says.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        train: Train,
        optimizer: Optimizer,
        cells: int,
        universal: bool = False,
        wrapped: Wrapped | None = None,
        factor: Callable[[int], float] | None = None,
    ):
        self.ranks = deepspeed.comm.get_world_size()
        self._planned = bool(train.row_tokens)  # then steps differ in how many forward passes they take
        self.accumulation = micro_batches(train, self.ranks) if wrapped is None else 1
        self.cells = cells
        self.zero_stage = train.zero_stage
        self.dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        self._peak = optimizer.lr
        groups = parameter_groups(model, optimizer)
        if wrapped is not None:
            groups += wrapped.groups
        self._updater = _updater(groups, train, optimizer)
        factor = factor or partial(rate_factor, optimizer, train.steps)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._updater, factor)
        config = _deepspeed_config(train, optimizer, self.ranks, self.accumulation)
        config["checkpoint"] = {"load_universal": universal}
        self.stopwatch = Stopwatch(_accelerator().synchronize)
        module = PackedLoss(model, self.stopwatch.phase) if wrapped is None else wrapped.module
        _place(module, train, config)
        self._engine: Any  # DeepSpeed's type hints do not know what its engine holds
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._updater,
            lr_scheduler=self._schedule,  # pyright: ignore[reportArgumentType] - a LambdaLR, which it takes
            config=config,
            dist_init_required=False,
        )
        self.device = self._engine.device

    @property
    def lr(self) -> float:
        """AdamW's learning rate of the next step, for a part of the model whose relative rate is 1."""
        group = self._updater.param_groups[0]
        return self._peak * float(group["lr"]) / float(group["initial_lr"])

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """One optimizer step over this process's micro-batches, of which every process has as many.

        The loss is normalised by the weight of all supervised tokens of the step over all processes, so neither the
        number of processes nor that of micro-batches changes it.
        """
        assert self._planned or len(batches) == self.accumulation, "one batch per accumulation step"
        phase = self.stopwatch.phase
        work, alone = (sum(parts, Work()) for parts in zip(*((b.work, b.alone) for b in batches), strict=True))
        counts = torch.tensor(
            [
                sum(float(batch.weights.sum(dtype=torch.float64)) for batch in batches),
                sum(batch.ids.numel() for batch in batches),
                sum(batch.samples for batch in batches),
                *astuple(work),
                *astuple(alone),
            ],
            dtype=torch.float64,
        )
        with phase("communication"):
            weight, *summed = self.sum(counts).tolist()
        computed, samples, *works = map(int, summed)
        # DeepSpeed averages over processes and accumulation steps; the loss wants their sum over one global weight.
        scale = self.ranks * self.accumulation / weight
        norm = 0.0  # stage 0 does not keep it
        total, cells = torch.zeros(1, dtype=torch.float64), torch.zeros(2, self.cells, dtype=torch.float64)
        for number, batch in enumerate(batches, start=1):
            if self._planned:
                self._engine.set_gradient_accumulation_boundary(number == len(batches))
            with phase("language"):
                on_device = batch.to(self.device, self.dtype)
                losses = self._engine(on_device)
                weighted = (losses * on_device.weights).sum()
            with phase("backward"):
                self._engine.backward(weighted * scale)
            with phase("optimizer"):
                if self.zero_stage == 0:
                    gradients = [p.grad for p in self._engine.parameters() if p.grad is not None]
                    norm = float(torch.nn.utils.get_total_norm(gradients))
                self._engine.step()
            total += float(weighted.detach())
            plain = losses.detach().double().cpu()
            cells[0].index_add_(0, batch.cells, plain)
            cells[1].index_add_(0, batch.cells, torch.ones_like(plain))
        with phase("communication"):
            sums = self.sum(torch.cat([total, cells.flatten()]))
        return StepResult(
            loss=float(sums[0]) / weight,
            grad_norm=norm if self.zero_stage == 0 else float(self._engine.get_global_grad_norm()),
            cell_losses=sums[1 : 1 + self.cells],
            cell_tokens=sums[1 + self.cells :],
            computed=computed,
            work=Work(*works[: len(works) // 2]),
            alone=Work(*works[len(works) // 2 :]),
            samples=samples,
            seconds=self.stopwatch.take(),
        )

    @torch.no_grad()
    def outputs(self, batch: Batch, **how: Any) -> torch.Tensor:
        """What the wrapped model says about a batch, as it would in an update; all processes must call this.

        Args:
            how: more arguments for the wrapped model.
        """
        with self.stopwatch.phase("language"):
            return self._engine(batch.to(self.device, self.dtype), **how)

    def update(self, batches: Sequence[Batch], loss: Callable[[int, torch.Tensor], torch.Tensor]) -> float:
        """One optimizer step over this process's micro-batches, of which every process must have as many.

        Args:
            loss: (number of a batch, its outputs) -> its part of the loss. The loss of the step is the sum of the
                parts of all batches of all processes.

        Returns:
            The global gradient norm before clipping. Where it is not finite, nothing is changed, the learning rate's
            schedule included: DeepSpeed does so under ZeRO, and here stage 0 does.
        """
        phase = self.stopwatch.phase
        norm = 0.0
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            self._engine.set_gradient_accumulation_boundary(last)
            with phase("language"):
                # DeepSpeed averages over processes; the loss wants their sum.
                part = loss(number, self._engine(batch.to(self.device, self.dtype))) * self.ranks
            with phase("backward"):
                self._engine.backward(part)
            with phase("optimizer"):
                if last and self.zero_stage == 0:
                    gradients = [p.grad for p in self._engine.parameters() if p.grad is not None]
                    norm = float(torch.nn.utils.get_total_norm(gradients))
                    if not math.isfinite(norm):
                        self._engine.zero_grad()
                        return norm
                self._engine.step()
        return norm if self.zero_stage == 0 else float(self._engine.get_global_grad_norm())

    def gradient_norms(
        self, batches: Sequence[Batch], losses: Callable[[int, torch.Tensor], Sequence[torch.Tensor | None]]
    ) -> list[float]:
        """Global norms of the gradients of several losses, and no update; ZeRO 0 only, where gradients are whole.

        Args:
            batches: of this process; every process must have as many.
            losses: (number of a batch, its outputs) -> its part of each loss, summed as by :meth:`update`.
        """
        assert self.zero_stage == 0, "elsewhere no process has a whole gradient"
        parameters = [parameter for parameter in self._engine.module.parameters() if parameter.requires_grad]
        totals: list[list[torch.Tensor]] = []
        for number, batch in enumerate(batches):
            parts = losses(number, self._engine.module(batch.to(self.device, self.dtype)))
            totals = totals or [[torch.zeros_like(parameter) for parameter in parameters] for _ in parts]
            for total, part in zip(totals, parts, strict=True):
                if part is not None:
                    found = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
                    for sum_so_far, own in zip(total, found, strict=True):
                        if own is not None:
                            sum_so_far += own
        return [float(self.sum(torch.cat([own.flatten() for own in total])).norm()) for total in totals]

    @torch.no_grad()
    def copy(self, pairs: Iterable[tuple[torch.nn.Parameter, torch.nn.Parameter]]) -> None:
        """Give the second parameter of each pair, which is not trained, the values of the first."""
        for one, other in pairs:
            if self.zero_stage == 3:
                other.ds_tensor.copy_(one.ds_tensor)  # type: ignore[attr-defined] - alike in shape, so spread alike
            else:
                other.copy_(one)

    def gather(self, own: T) -> list[T]:
        """What each process gives, in order of their ranks; all get all of it."""
        if self.ranks == 1:
            return [own]
        found: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(found, own)
        return found

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over processes; on the CPU."""
        if self.ranks == 1:
            return values
        summed = values.to(self.device)
        deepspeed.comm.all_reduce(summed)
        return summed.cpu()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """While this context is open every process has the whole model, to generate with, at its own pace.

        All processes must enter it, and none may train in it. Only ZeRO 3 has anything to gather, and then the model
        must fit into the memory of each device.
        """
        if self.zero_stage < 3:
            yield
            return
        self._engine.empty_partition_cache()
        hooks = self._engine.optimizer.parameter_offload
        hooks.destroy()  # they would take each layer's weights apart again after its use
        hooks.forward_hooks.clear()
        hooks.backward_hooks.clear()
        try:
            with deepspeed.zero.GatheredParameters(list(self._engine.module.parameters())):
                yield
        finally:
            hooks.setup_zero_stage3_hooks()

    def save(self, folder: Path, tag: str) -> None:
        """Write the states to resume from into ``folder / tag`` (all processes must call this)."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        """Resume from ``folder / tag``, which must be one of this run's own: it is a pickle."""
        settings = [{key: group[key] for key in group if key != "params"} for group in self._updater.param_groups]
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise ConfigError(f"checkpoint {folder / tag} cannot be loaded")
        # From universal checkpoints all groups get the settings of the first, and one tensor counts the steps of all.
        for group, own, lr in zip(self._updater.param_groups, settings, self._schedule.get_last_lr(), strict=True):
            group.update(own, lr=lr)
        for state in self._updater.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()

    def model_state(self) -> dict[str, torch.Tensor]:
        """The trained weights by the model's own parameter names (all processes must call this).

        With ZeRO 3 they are gathered one by one into the memory of the first process's CPU; the others get nothing.
        """
        model = self._engine.module.model
        if self.zero_stage < 3:
            return model.state_dict()
        first = deepspeed.comm.get_rank() == 0
        whole: dict[int, torch.Tensor] = {}  # by identity: tied weights stay tied
        for parameter in model.parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if first:
                    whole[id(parameter)] = parameter.detach().cpu().clone()
        if not first:
            return {}
        names = dict(model.named_parameters(remove_duplicate=False))
        return {
            name: whole[id(names[name])] if name in names else tensor for name, tensor in model.state_dict().items()
        }


def _place(module: torch.nn.Module, train: Train, config: dict[str, Any]) -> None:
    """Bring a model to the device: whole, or with ZeRO 3 one parameter at a time, each process keeping its part."""
    if train.zero_stage < 3:
        module.to(local_device())
        return
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    remote = "cpu" if train.offload.parameters else None
    deepspeed.zero.Init(module=module, config_dict_or_path=config, dtype=dtype, remote_device=remote)
    for buffer in module.buffers():
        buffer.data = buffer.data.to(local_device())


def _updater(groups: Sequence[ParameterGroup], train: Train, optimizer: Optimizer) -> torch.optim.Optimizer:
    """The optimizer of some groups of parameters."""
    settings: list[dict[str, Any]] = [
        {"params": group.parameters, "lr": group.lr, "weight_decay": group.weight_decay} for group in groups
    ]
    if optimizer.name == "muon":
        return _muon(settings, [group.muon for group in groups], optimizer)
    if train.offload.cpu_adam:
        return deepspeed.ops.adam.DeepSpeedCPUAdam(settings, betas=optimizer.betas, adamw_mode=True)
    return torch.optim.AdamW(settings, betas=optimizer.betas, fused=True)


def _muon(settings: list[dict[str, Any]], muon: Sequence[bool], optimizer: Optimizer) -> torch.optim.Optimizer:
    """DeepSpeed's Muon, which knows how to orthogonalise matrices whose gradients are spread over processes."""
    # Its import compiles functions on their first call, which a machine without compiler cannot, and a CPU need not.
    if not torch.cuda.is_available():
        torch.compiler.set_stance("force_eager")
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for group, by_muon in zip(settings, muon, strict=True):
        group |= {"momentum": optimizer.momentum} if by_muon else {"betas": optimizer.betas, "eps": 1e-8}
        group["use_muon"] = by_muon
        for parameter in group["params"]:
            parameter.use_muon = by_muon
    return MuonWithAuxAdam(settings)


def _deepspeed_config(train: Train, optimizer: Optimizer, ranks: int, accumulation: int) -> dict[str, Any]:
    pinned = torch.cuda.is_available()
    zero: dict[str, Any] = {"stage": train.zero_stage}
    if train.offload.optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    if train.offload.parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    if optimizer.name == "muon":
        zero["reduce_scatter"] = False  # Muon wants the gradients of whole matrices
    return {
        "train_batch_size": ranks * train.micro_rows * accumulation,
        "train_micro_batch_size_per_gpu": train.micro_rows,
        "gradient_accumulation_steps": accumulation,
        # Under ZeRO, Muon's gradients have become its updates by the time they would be clipped.
        "gradient_clipping": optimizer.clip if optimizer.name == "adamw" else 0.0,
        "zero_optimization": zero,
        # torch's AdamW and ours: DeepSpeed's own would be compiled on first use
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": train.precision == "bf16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
