"""The processes that train together, through accelerate; one process is the common case."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, ProjectConfiguration, gather_object
from torch import Tensor, nn

from trueup.errors import UserError
from trueup.models import Work

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class Processes:
    """Rank, sums and trackers.

    Raises: UserError where the launcher shards the weights, which this engine does not yet do, or
            a tracker is unknown or not installed.
    """

    def __init__(self, device: torch.device, *, trackers: Sequence[str], folder: Path) -> None:
        launched = "LOCAL_RANK" in os.environ
        with _unknown_trackers(trackers):
            self._accelerator = Accelerator(
                cpu=launched and device.type == "cpu",
                mixed_precision="no",  # the engine's own autocast serves the reference too
                device_placement=False,
                log_with=list(trackers) or None,
                project_config=ProjectConfiguration(project_dir=str(folder / "logs")),
                kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
            )
        if self._accelerator.distributed_type in SHARDED:
            kind = self._accelerator.distributed_type.value
            raise UserError(
                f"training under {kind} is not supported; launch with one process or with "
                "--multi_gpu (DDP), and use lora_r or gradient_checkpointing to save memory"
            )
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.is_main: bool = self._accelerator.is_main_process
        self.device: torch.device = self._accelerator.device if self.count > 1 else device
        missing = set(trackers) - {_name(tracker) for tracker in self._accelerator.log_with}
        if missing:
            raise UserError(f"tracker {sorted(missing)[0]!r} is not installed; pip install it")

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as the processes share its gradients."""
        wrapped: nn.Module = self._accelerator.prepare_model(module, device_placement=False)
        return wrapped

    def quiet(self, module: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """A block whose backward passes do not exchange gradients."""
        block: contextlib.AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return block

    def share(self, count: int) -> list[int]:
        """The positions of `count` that are this process's; none where there are too few."""
        return list(range(self.rank, count, self.count))

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes, on the CPU in float64."""
        if self.count > 1:
            values = self._accelerator.reduce(values.to(self.device), reduction="sum")
        return values.cpu().double()

    def total_work(self, own: Work) -> Work:
        """The work of all processes."""
        counts = own.as_dict()
        totals = self.total(torch.tensor([*counts.values()])).tolist()
        return Work(**dict(zip(counts, map(int, totals), strict=True)))

    def gather(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other."""
        gathered: list[Any] = gather_object(values) if self.count > 1 else values
        return gathered

    def wait(self) -> None:
        """Wait until all processes stand here."""
        self._accelerator.wait_for_everyone()

    def open_trackers(self, settings: Mapping[str, Any]) -> None:
        """Start the trackers with the run's settings."""
        if self._accelerator.log_with:
            flat = {name: value for name, value in settings.items() if _is_plain(value)}
            self._accelerator.init_trackers("trueup", config=flat)

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers to the trackers."""
        if self._accelerator.log_with:
            self._accelerator.log(dict(values), step=step)

    def close_trackers(self) -> None:
        """Flush the trackers."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


@contextlib.contextmanager
def _unknown_trackers(trackers: Sequence[str]) -> Any:
    """Turn accelerate's complaint about a tracker into one line."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"trackers {', '.join(trackers)}: {error}") from error


def _name(tracker: Any) -> str:
    """The registered name of one of accelerate's trackers."""
    return str(getattr(tracker, "value", tracker))


def _is_plain(value: Any) -> bool:
    """Whether a tracker can show the value."""
    return isinstance(value, bool | int | float | str)
