"""A dataset of sixteen images, for trainers."""

from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.setups.training import X, Y


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Sixteen random images with their classes."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index], Y[index]
