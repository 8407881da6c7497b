"""The processes that train together, through accelerate; one process is the common case."""

import atexit
import contextlib
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType, ProjectConfiguration, gather_object
from torch import Tensor, nn

from trueup.errors import TrueupError, UserError, unknown_name
from trueup.models import Work

T = TypeVar("T")
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class Processes:
    """Rank, sums and trackers.

    Raises: UserError where the launcher shards the weights, which this engine does not yet do, or
            a tracker is unknown or not installed.
    """

    def __init__(self, device: torch.device, *, trackers: Sequence[str], folder: Path) -> None:
        launched = "LOCAL_RANK" in os.environ
        _check_trackers(trackers)
        self._accelerator = Accelerator(
            cpu=launched and device.type == "cpu",
            mixed_precision="no",  # the engine's own autocast serves the reference too
            device_placement=False,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(folder / "logs")),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
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

    def shared(self, count: int, act: Callable[[list[int]], Sequence[T]]) -> list[T]:
        """A value for each of `count` positions; each is made by one process and given to all.

        Fields: act gives the values of some positions, in their order.
        Raises: in every process what the act raises in one of them.
        """

        def own() -> list[tuple[int, T]]:
            mine = self.share(count)
            return list(zip(mine, act(mine), strict=True)) if mine else []

        return [value for _, value in sorted(self._each(own), key=lambda pair: pair[0])]

    def on_main(self, act: Callable[[], T]) -> T:
        """What the act gives in the first process, which alone does it; all wait for it.

        Raises: in every process what the act raises.
        """
        [value] = self._each(lambda: [act()] if self.is_main else [])
        return value

    def _each(self, act: Callable[[], list[T]]) -> list[T]:
        """The lists of all processes, one after the other, or the first error of any of them."""
        if self.count == 1:
            return act()
        values: list[T] = []
        error: TrueupError | None = None
        try:
            values = act()
        except TrueupError as raised:  # the others wait for this process: they must hear of it
            error = raised
        found = self.gather([(values, error)])
        for _, failed in found:
            if failed is not None:
                raise failed
        return [value for several, _ in found for value in several]

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


def _leave_group() -> None:
    """Leave the process group, if there is one, and join its threads.

    A thread that frees the tensors of the last exchange while the interpreter ends aborts the
    process; the group joins its threads when it is freed, which cycles (DDP's) put off.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()


def _check_trackers(trackers: Sequence[str]) -> None:
    """Raise UserError where a tracker is none of accelerate's, or is not installed."""
    known = [kind.value for kind in LoggerType if kind != LoggerType.ALL]
    installed = {kind.value for kind in get_available_trackers()}
    for tracker in trackers:
        if tracker not in known:
            raise unknown_name("tracker", tracker, known)
        if tracker not in installed:
            raise UserError(f"tracker {tracker!r} is not installed; pip install {tracker}")


def _is_plain(value: Any) -> bool:
    """Whether a tracker can show the value."""
    return isinstance(value, bool | int | float | str)
