"""A training of one's own: a LightningModule and a LightningDataModule as Lightning's tutorial writes them."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader


class Regression(pl.LightningModule):
    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.learning_rate, self.layer = learning_rate, nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("validation/loss", (self.layer(batch) - batch.sum(dim=1, keepdim=True)).square().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Numbers(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(torch.linspace(-1, 1, 64).view(16, 4), batch_size=2)

    def val_dataloader(self):
        return DataLoader(torch.linspace(-1, 1, 16).view(4, 4), batch_size=2)
