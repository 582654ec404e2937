"""What the problems on CIFAR share."""

import colorsys

import pytest
import torch
from tests.problems import archives
from torch import nn

from stepscope.problems import cifar
from stepscope.problems.sources import DATASETS


def pixels(count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_the_last_file_tests_and_the_others_train(name, form, places, monkeypatch):
    monkeypatch.setitem(DATASETS, name, archives.entry(name))
    archives.write(places / "mine", name, form)
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    data, written = cifar.images(name), archives.images(name)
    for split, files in ((data.train, archives.TRAINING_FILES[name]), (data.test, [archives.TEST_FILE[name]])):
        expected = torch.cat([torch.from_numpy(written[file][0]) for file in files])
        assert torch.equal(split.inputs.flatten(1), expected)
        assert split.targets.tolist() == [int(label) for file in files for label in written[file][1][:, -1]]


@pytest.mark.parametrize(
    ("name", "classes", "mean"),
    [("cifar-10", 10, (0.4914, 0.4822, 0.4465)), ("cifar-100", 100, (0.5071, 0.4865, 0.4409))],
)
def test_the_real_images(name, classes, mean, here):
    """Balanced classes, and the well-known means of red, green and blue."""
    if not here(name):
        pytest.skip(f"{name} is not on this machine")
    data = cifar.images(name)
    for split, examples in ((data.train, 50_000), (data.test, 10_000)):
        assert split.inputs.shape == (examples, 3, 32, 32)
        assert split.targets.bincount().tolist() == [examples // classes] * classes
    assert [round(channel.double().mean().item() / 255, 4) for channel in data.train.inputs.unbind(1)] == list(mean)


def test_each_image_is_standardised_by_itself():
    """Float32 sums over 3072 values: relative errors below 1e-5."""
    images = pixels()
    ours = cifar.Standardise()(images).double().flatten(1)
    assert ours.mean(1).abs().max() < 1e-5
    assert (ours.std(1, correction=0) - 1).abs().max() < 1e-5
    expected = images.double().flatten(1)
    expected = (expected - expected.mean(1, keepdim=True)) / expected.std(1, correction=0, keepdim=True)
    assert (ours - expected).abs().max() < 1e-5
    assert torch.equal(cifar.Standardise()(images.float() / 255), cifar.Standardise()(images))


def test_an_image_in_one_colour_becomes_zero():
    """Its mean may be off by a rounding, 6e-8, which is divided by 1/sqrt(3072)."""
    assert cifar.Standardise()(torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)).abs().max() < 1e-5


def slow_twin(image: torch.Tensor, row, column, mirrored, brightness, saturation, contrast) -> torch.Tensor:
    """One image, pixel by pixel, through Python's own HSV."""
    moved = torch.zeros(3, 32, 32, dtype=torch.float64)
    for y in range(32):
        for x in range(32):
            from_y, from_x = y + row - 2, (31 - x if mirrored else x) + column - 2
            inside = 0 <= from_y < 32 and 0 <= from_x < 32
            colours = [image[c, from_y, from_x].item() / 255 if inside else 0.0 for c in range(3)]
            h, s, v = colorsys.rgb_to_hsv(*(colour + brightness for colour in colours))
            moved[:, y, x] = torch.tensor(colorsys.hsv_to_rgb(h, min(1.0, s * saturation), v), dtype=torch.float64)
    mean = moved.mean(dim=(1, 2), keepdim=True)
    return (moved - mean) * contrast + mean


def test_augmentation_equals_its_slow_twin(monkeypatch):
    """Float32 against float64 on numbers of at most 2, some ten operations: 1e-5.

    Brightness only upwards here: Python's HSV divides by the value, which must then be positive.
    """
    monkeypatch.setattr(cifar, "BRIGHTNESS", 0.2)
    images, count = pixels(4), 4
    generator = torch.Generator().manual_seed(11)
    offset = torch.randint(5, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    draws = [torch.rand(count, generator=generator) for _ in range(3)]
    ours = cifar.augment(images, torch.Generator().manual_seed(11))
    checked = 0
    for n in range(count):
        brightness = -0.2 + 0.4 * draws[0][n].item()
        if brightness < 0:
            continue
        saturation, contrast = 0.5 + draws[1][n].item(), 0.2 + 1.6 * draws[2][n].item()
        twin = slow_twin(
            images[n], int(offset[0][n]), int(offset[1][n]), bool(mirrored[n]), brightness, saturation, contrast
        )
        assert (ours[n].double() - twin).abs().max() < 1e-5
        checked += 1
    assert checked >= 1


def test_augmentation_follows_from_the_generator_alone(global_states):
    before = global_states()
    one, two, other = (cifar.augment(pixels(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.isfinite().all()
    assert global_states() == before


def test_every_shift_and_both_mirrorings_occur():
    """A marked pixel in the middle of 1000 images lands in 5 x 5 places, and 5 x 5 of the mirror: 30 places in all.

    The 25 columns and rows overlap: 14..18 mirrored is 13..17. Each place has a probability of at least 1/50.
    """
    images = torch.zeros(1000, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 255
    changed = cifar.augment(images, torch.Generator().manual_seed(0)).sum(dim=1)
    brightest = changed.flatten(1).argmax(dim=1)
    places = {(int(place) // 32, int(place) % 32) for place in brightest}
    assert places == {(y, x) for y in range(14, 19) for x in range(13, 19)}


def test_glorot_gives_the_variance_of_the_paper():
    """2 / (inputs + outputs). A sample variance of n draws is off by about sqrt(2/n) of itself; 5 of those allowed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Linear(200, 300))
        cifar.glorot(net, normal=(nn.Conv2d,))
    for layer, expected in ((net[0], 2 / (9 * (16 + 32))), (net[1], 2 / 500)):
        variance = layer.weight.double().var().item()
        assert abs(variance / expected - 1) < 5 * (2 / layer.weight.numel()) ** 0.5
        assert not layer.bias.any()
    assert net[0].weight.abs().max() > 3**0.5 * (2 / 432) ** 0.5  # beyond a uniform's end: it is normal
    assert net[1].weight.abs().max() <= (6 / 500) ** 0.5
