"""CIFAR-10 and CIFAR-100 as the problems on them share them: images, standardisation, augmentation."""

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from stepscope.problems import data
from stepscope.problems.formats import decode_cifar
from stepscope.problems.problem import Data, Split

__all__ = ["Standardise", "augment", "glorot", "images"]

MARGIN: Final = 2  # black pixels on each side before an image is cut out again: 36 x 36
BRIGHTNESS: Final = 63 / 255
SATURATION: Final = (0.5, 1.5)
CONTRAST: Final = (0.2, 1.8)


def images(name: str) -> Data:
    """50,000 training and 10,000 test images of shape (3, 32, 32), pixels as bytes; the 10 or 100 fine classes.

    name: "cifar-10" or "cifar-100". The last file is the test set, the others in their order the training set.
    """
    form, files = data.read(name)
    label_bytes = 2 if name == "cifar-100" else 1
    splits = [decode_cifar(contents, path, form, label_bytes) for path, contents in files.items()]
    return Data(train=_split(splits[:-1]), test=_split(splits[-1:]))


def _split(parts: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    pixels, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Split(torch.from_numpy(pixels), torch.from_numpy(classes.astype(np.int64)))


class Standardise(nn.Module):
    """First layer without parameters: bytes become [0, 1]; then each image gets mean 0 and deviation 1.

    Deviations below 1/sqrt(pixels), of images in one colour, count as that much. Images that are floating point
    numbers already, after `augment`, are taken to be in those units.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes (n, 3, 32, 32), both ways; float32."""
        x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        flat = x.flatten(1)
        deviation = flat.std(dim=1, correction=0).clamp_min(flat.shape[1] ** -0.5)
        return (x - flat.mean(dim=1)[:, None, None, None]) / deviation[:, None, None, None]


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every image shifted by up to two pixels, mirrored or not, and its colours changed; float32 near [0, 1].

    As in DeepOBS: black margins to 36 x 36, a random 32 x 32 of that, left and right exchanged with probability 1/2,
    then brightness (+-63/255), saturation (times 0.5 to 1.5) and contrast (times 0.2 to 1.8 around the mean of each
    colour), each uniform. Brightness cancels in the standardisation except for what it does to the saturation.
    """
    count, _, height, width = pixels.shape
    offset = torch.randint(2 * MARGIN + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    brightness, saturation, contrast = (
        (low + (high - low) * torch.rand(count, generator=generator))[:, None, None, None]
        for low, high in ((-BRIGHTNESS, BRIGHTNESS), SATURATION, CONTRAST)
    )
    rows = offset[0][:, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = offset[1][:, None] + torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = nn.functional.pad(pixels.cpu(), (MARGIN,) * 4)
    image = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    image = image.permute(0, 3, 1, 2).float() / 255 + brightness
    image = _saturate(image, saturation)
    mean = image.mean(dim=(2, 3), keepdim=True)
    return ((image - mean) * contrast + mean).contiguous().to(pixels.device)


def _saturate(image: Tensor, factor: Tensor) -> Tensor:
    """Saturation in the sense of HSV, 1 - min/max of a pixel's colours, times the factor and at most 1."""
    value = image.amax(dim=1, keepdim=True)
    span = value - image.amin(dim=1, keepdim=True)
    largest = torch.where(span > 0, value / span, 1.0)  # the factor that makes the saturation 1
    return value - (value - image) * torch.where(value > 0, torch.minimum(factor, largest), 0.0)


def glorot(net: nn.Module, *, normal: tuple[type[nn.Module], ...] = ()) -> None:
    """Start convolutions and fully connected layers uniform with Glorot's variance, those in `normal` normal; biases 0.

    [glorot2010, Eq. 16]: variance 2 / (inputs + outputs) of a unit, its receptive field counted in.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            draw = nn.init.xavier_normal_ if isinstance(layer, normal) else nn.init.xavier_uniform_
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
