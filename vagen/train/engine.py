"""DeepSpeed behind a small interface; the only file that imports it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to find out
import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import logger as deepspeed_logger
from transformers import get_wsd_schedule

from vagen.config import ConfigError, Optimizer, Train
from vagen.policy.packing import Batch, PackedLoss
from vagen.train.run import micro_batches


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, over all processes.

    Attributes:
        loss: weighted loss per unit of weight; with weights of 1, per supervised token.
        grad_norm: global gradient norm before clipping.
        cell_losses: (C,) summed plain losses of each metrics cell.
        cell_tokens: (C,) supervised tokens of each cell.
        computed: tokens the model went through, padding included.
        unpacked: tokens it would have gone through without sharing.
        samples: clozes in the step.
    """

    loss: float
    grad_norm: float
    cell_losses: torch.Tensor
    cell_tokens: torch.Tensor
    computed: int
    unpacked: int
    samples: int


def start_processes() -> tuple[int, int]:
    """Join the process group (a group of one where no launcher set one up); returns (rank, ranks).

    May be called again; :func:`stop_processes` belongs to the end of the program, not of a training.
    """
    if torch.distributed.is_initialized():
        return deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    deepspeed_logger.setLevel(logging.WARNING)
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


def _accelerator() -> Any:
    return get_accelerator()


class Engine:
    """A model under DeepSpeed: forward, backward and update of one optimizer step, and its checkpoints."""

    def __init__(self, model: torch.nn.Module, train: Train, optimizer: Optimizer, cells: int):
        self.ranks = deepspeed.comm.get_world_size()
        self.accumulation = micro_batches(train, self.ranks)
        self.cells = cells
        self._stage = train.zero_stage
        self.dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        adamw = torch.optim.AdamW(
            _decay_groups(model, optimizer.weight_decay), lr=optimizer.lr, betas=optimizer.betas, foreach=True
        )
        decay = round(optimizer.decay * train.steps)
        schedule = get_wsd_schedule(
            adamw,
            num_warmup_steps=min(optimizer.warmup_steps, train.steps - decay),
            num_decay_steps=decay,
            num_training_steps=train.steps,
            min_lr_ratio=optimizer.final_lr,
        )
        self._engine: Any  # DeepSpeed's type hints do not know what its engine holds
        self._engine, *_ = deepspeed.initialize(
            model=PackedLoss(model),
            optimizer=adamw,
            lr_scheduler=schedule,  # pyright: ignore[reportArgumentType] - a LambdaLR, which it takes
            config=_deepspeed_config(train, optimizer, self.ranks, self.accumulation),
            dist_init_required=False,
        )
        self.device = self._engine.device

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._engine.optimizer.param_groups[0]["lr"])

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """One optimizer step over this process's micro-batches.

        The loss is normalised by the weight of all supervised tokens of the step over all processes, so neither the
        number of processes nor that of micro-batches changes it.
        """
        assert len(batches) == self.accumulation, "one batch per accumulation step"
        counts = torch.tensor(
            [
                sum(float(batch.weights.sum(dtype=torch.float64)) for batch in batches),
                sum(batch.ids.numel() for batch in batches),
                sum(batch.unpacked for batch in batches),
                sum(batch.samples for batch in batches),
            ],
            dtype=torch.float64,
        )
        weight, computed, unpacked, samples = self._sum(counts).tolist()
        # DeepSpeed averages over processes and accumulation steps; the loss wants their sum over one global weight.
        scale = self.ranks * self.accumulation / weight
        norm = 0.0  # stage 0 does not keep it
        total, cells = torch.zeros(1, dtype=torch.float64), torch.zeros(2, self.cells, dtype=torch.float64)
        for batch in batches:
            on_device = batch.to(self.device, self.dtype)
            losses = self._engine(on_device)
            weighted = (losses * on_device.weights).sum()
            self._engine.backward(weighted * scale)
            if self._stage == 0:
                norm = float(
                    torch.nn.utils.get_total_norm([p.grad for p in self._engine.parameters() if p.grad is not None])
                )
            self._engine.step()
            total += float(weighted.detach())
            plain = losses.detach().double().cpu()
            cells[0].index_add_(0, batch.cells, plain)
            cells[1].index_add_(0, batch.cells, torch.ones_like(plain))
        sums = self._sum(torch.cat([total, cells.flatten()]))
        return StepResult(
            loss=float(sums[0]) / weight,
            grad_norm=norm if self._stage == 0 else float(self._engine.get_global_grad_norm()),
            cell_losses=sums[1 : 1 + self.cells],
            cell_tokens=sums[1 + self.cells :],
            computed=int(computed),
            unpacked=int(unpacked),
            samples=int(samples),
        )

    def save(self, folder: Path, tag: str, state: dict[str, Any]) -> None:
        """Write a checkpoint to resume from (all processes must call this)."""
        self._engine.save_checkpoint(str(folder), tag=tag, client_state=state)

    def load(self, folder: Path, tag: str) -> dict[str, Any]:
        """Resume from a checkpoint of this run's own; returns the state saved with it."""
        path, state = self._engine.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise ConfigError(f"checkpoint {folder / tag} cannot be loaded")
        return state

    def model_state(self) -> dict[str, torch.Tensor]:
        """The trained weights by the model's own parameter names."""
        return self._engine.module.model.state_dict()

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over processes."""
        if self.ranks == 1:
            return values
        summed = values.to(self.device)
        deepspeed.comm.all_reduce(summed)
        return summed.cpu()


def barrier() -> None:
    """Wait for all processes."""
    deepspeed.comm.barrier()


def _decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: norms and biases have nothing to shrink."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # adapters have no vectors; DeepSpeed drops empty groups


def _deepspeed_config(train: Train, optimizer: Optimizer, ranks: int, accumulation: int) -> dict[str, Any]:
    return {
        "train_batch_size": ranks * train.micro_rows * accumulation,
        "train_micro_batch_size_per_gpu": train.micro_rows,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.clip,
        "zero_optimization": {"stage": train.zero_stage},
        "zero_allow_untested_optimizer": True,  # torch's AdamW: DeepSpeed's own would be compiled on first use
        "bf16": {"enabled": train.precision == "bf16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
