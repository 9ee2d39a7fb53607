"""Training images changed at random: each by draws of its own, which come from a generator that is given."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.errors import UsageError, did_you_mean, quoted

# what is done to training images, one after another; true is crop+flip
Augment = (
    bool
    | Literal[
        "crop",
        "flip",
        "jitter",
        "randaugment",
        "crop+flip",
        "crop+jitter",
        "flip+jitter",
        "crop+flip+jitter",
        "crop+flip+randaugment",
        "mixup",
        "cutmix",
        "crop+flip+mixup",
        "crop+flip+cutmix",
    ]
)
MIXES = ("mixup", "cutmix")  # those that are done to a batch, and to its labels: see clbench.training.mixing
STEPS = ("crop", "flip", "jitter", "randaugment", *MIXES)
OF_BYTES = ("jitter", "randaugment")  # those that have to know what is black and what is white
JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast and saturation change by at most this share; hue by this of a turn
GREY = (0.2989, 0.587, 0.114)  # what red, green and blue count in the brightness of a pixel (ITU-R 601)


def steps_of(augment: bool | str) -> tuple[str, ...]:
    """Return the steps that a setting stands for; raise UsageError for one that there is not."""
    names = ("crop", "flip") if augment is True else tuple(augment.split("+")) if augment else ()
    for name in names:
        if name not in STEPS:
            raise UsageError(f"augment={augment}: unknown step {quoted(name)}{did_you_mean(name, STEPS)}")
    return names


def mixing_of(augment: bool | str) -> str | None:
    """Return the step of a setting that mixes images in pairs, None if it has none."""
    return next((step for step in steps_of(augment) if step in MIXES), None)


def augmented(x: Tensor, augment: bool | str, divisor: float, generator: torch.Generator) -> Tensor:
    """Return images [n, channels, height, width] changed as `augment` says, each by itself.

    They are bytes, of which jitter makes floats.
    `divisor` is the byte of white. The same state of the (CPU) generator gives the same images on every device.
    """
    steps = steps_of(augment)
    if "crop" in steps or "flip" in steps:
        x = crop_and_flip(x, generator, crop="crop" in steps, flip="flip" in steps)
    if "jitter" in steps:
        draws = 2 * torch.rand(len(x), 4, generator=generator) - 1
        changes = draws * torch.tensor(JITTER) + torch.tensor([1.0, 1.0, 1.0, 0.0])
        x = jittered(x / divisor, changes.to(x.device)) * divisor
    if "randaugment" in steps:
        x = rand_augmented(x, generator)
    return x


def crop_and_flip(
    x: Tensor, generator: torch.Generator, padding: int = 4, crop: bool = True, flip: bool = True
) -> Tensor:
    """Crop each image [n, channels, height, width] at random from its zero-padded self and flip half of them."""
    n, _, height, width = x.shape
    top = left = torch.full((n, 1), padding)
    if crop:
        top = torch.randint(2 * padding + 1, (n, 1), generator=generator)
        left = torch.randint(2 * padding + 1, (n, 1), generator=generator)
    across = left + torch.arange(width)
    if flip:
        flipped = torch.rand(n, 1, generator=generator) < 0.5
        across = torch.where(flipped, across.flip(1), across)
    down = top + torch.arange(height)
    rows, columns, images = (
        i.to(x.device) for i in (down[:, :, None], across[:, None], torch.arange(n)[:, None, None])
    )
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    return padded[images, rows, columns].permute(0, 3, 1, 2).contiguous()


def jittered(x: Tensor, changes: Tensor) -> Tensor:
    """Change the colours of images [n, channels, height, width] in [0, 1]; float32.

    `changes` [n, 4] are the factors of brightness, contrast and saturation, and the part of a turn of the hue, of each
    image, in this order. Each is as torchvision's function for one image. Grey images have no saturation and no hue.
    """
    brightness, contrast, saturation, hue = changes[:, :, None, None, None].unbind(1)
    x = (brightness * x).clamp(0, 1)
    x = (contrast * x + (1 - contrast) * _grey(x).mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    if x.shape[1] != 3:
        return x
    x = (saturation * x + (1 - saturation) * _grey(x)).clamp(0, 1)
    return _with_hue_turned(x, hue[:, 0])


def _grey(x: Tensor) -> Tensor:
    """Return the brightness of each pixel [n, 1, height, width]."""
    return x if x.shape[1] != 3 else (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)


def _with_hue_turned(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of each pixel by a part of a circle, turn [n, 1, 1]; the largest and smallest colour stay."""
    red, green, blue = x.unbind(1)
    high = x.amax(1)
    spread = high - x.amin(1)
    by = spread.masked_fill(spread == 0, 1)  # grey pixels, which stay as they are
    sixths = torch.where(high == green, (blue - red) / by + 2, (red - green) / by + 4)
    sixths = torch.where(high == red, (green - blue) / by, sixths) + 6 * turn
    k = (x.new_tensor([5.0, 3.0, 1.0])[:, None, None] + sixths[:, None]) % 6
    return high[:, None] - spread[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def rand_augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Change each image, bytes [n, channels, height, width], by torchvision's RandAugment (Cubuk et al. 2020).

    It draws from PyTorch's own generator, which is left as it was.
    """
    from torchvision.transforms import RandAugment  # here, since it takes a second to import and few ask for it

    change, seed = RandAugment(), int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([change(image) for image in x])
