"""A training whose buffer moves with the samples of one device, as the codebook of a user's quantizer may."""

import pytorch_lightning as pl
import torch


class Average(torch.nn.Module):
    """Subtracts the moving average of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.begun_with: list[torch.Tensor] = []

    def forward(self, points):
        self.begun_with.append(self.mean.clone())
        self.mean.lerp_(points.mean(dim=0), 0.1)
        return points - self.mean.clone()


class Drifting(pl.LightningModule):
    """Writes the averages with which every step began to "<rank>.pt"."""

    def __init__(self) -> None:
        super().__init__()
        self.average, self.layer = Average(), torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(self.average(batch)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_end(self):
        torch.save(torch.stack(self.average.begun_with), f"{self.global_rank}.pt")


class Points(pl.LightningDataModule):
    """24 points in batches of 2."""

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), 2)
