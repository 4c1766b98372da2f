"""Fully sharded data parallelism (FSDP2) through Lightning: each device keeps a part of weights, gradients and moments.

(Zhao et al., "PyTorch FSDP", arXiv 2304.11277.) For networks whose training state does not fit a device.
"""

from datetime import timedelta

import pytorch_lightning as pl
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from open_magvit2.common.arguments import above
from open_magvit2.layers.transformer import TransformerBlock


class FullySharded(ModelParallelStrategy):
    """Shards every `TransformerBlock`, and the rest of the module as one piece, over all devices.

    A checkpoint is one file, as without sharding: a training may be continued with another strategy. Not available are
    moving averages of the weights (`ema`), pictures at validation, and precision 16-mixed. All devices must validate
    equally many batches (trainer.limit_val_batches).

    Args:
        timeout_minutes: longest wait for the other devices.
    """

    def __init__(self, timeout_minutes: float = 10.0) -> None:
        above(0, timeout_minutes=timeout_minutes)
        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """All devices of all machines form one group."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the module, then make the optimizers of its shards. Lightning's own leaves sharding to the module."""
        from open_magvit2.training.ema import ExponentialMovingAverage

        if any(isinstance(callback, ExponentialMovingAverage) for callback in trainer.callbacks):
            raise ValueError("ema averages whole weights, and FullySharded shards them: set --ema null, or use ddp")
        self.accelerator.setup(trainer)
        shard(self.model, self.device_mesh["data_parallel"])
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every `TransformerBlock` of a module, and what remains of each of the module's parts."""
    for part in module.children():
        if any(parameter.requires_grad for parameter in part.parameters()):
            for block in part.modules():
                if isinstance(block, TransformerBlock):
                    fully_shard(block, mesh=mesh)
            fully_shard(part, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether a network's weights are spread over devices: all ranks must then run it together."""
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over devices, on each of them; a collective call if it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
