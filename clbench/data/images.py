"""One image from a file or from PIL as an array [channels, height, width], brought to a size and number of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# what an image file's name ends with: torchvision's list, and .gif
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, by ITU-R BT.601, as PIL has it


def read_image(path: str | Path, channels: int | None = None) -> np.ndarray:
    """Read an image file, as `from_pil` does, turned upright where its EXIF entry says how.

    Raises ValueError that says what is wrong with the file, without its name.
    """
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"it has {frames} frames: save the one that is meant as an image of its own")
            image.load()
            return from_pil(ImageOps.exif_transpose(image), channels)
    except ValueError:
        raise
    except Exception as error:  # whatever PIL's many readers raise for a damaged file
        size = Path(path).stat().st_size if Path(path).exists() else None
        reason = "the file is empty" if size == 0 else str(error).replace(f" {str(path)!r}", "")
        raise ValueError(f"it cannot be read: {reason}") from None


def from_pil(image: Image.Image, channels: int | None = None) -> np.ndarray:
    """Return a PIL image as uint8 [channels, height, width]: grey has 1 channel, colour 3.

    With `channels` 1 or 3 any other kind is turned into grey or colour. Without, only images that are grey or colour as
    they are (black and white and palettes too) are taken. Raises ValueError for others, and for 16 bits a channel.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"it has more than 8 bits a pixel (PIL's mode {image.mode}): save it with 8")
    if channels is None:
        plain = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
        if image.mode not in plain or (image.mode == "P" and "transparency" in image.info):
            what = "a palette with transparency" if image.mode == "P" else image.mode
            raise ValueError(f"its pixels are {what}, neither grey nor RGB: channels=3 makes colour of them")
        image = image.convert(plain[image.mode])
    else:
        image = image.convert("RGB") if image.mode in ("CMYK", "P", "YCbCr", "LAB", "HSV") else image
        image = image.convert({1: "L", 3: "RGB"}[channels])
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def with_channels(images: np.ndarray, channels: int | None) -> np.ndarray:
    """Return images [n, c, height, width] with this number of channels; raise ValueError where there is no rule.

    Grey is repeated in three channels; colour becomes grey by its luma.
    """
    own = images.shape[1]
    if channels in (None, own):
        return images
    if own == 1:
        return np.repeat(images, channels, axis=1)
    if (own, channels) != (3, 1):
        raise ValueError(f"no rule makes {channels} channel{'s' * (channels != 1)} of {own}: leave channels out")
    grey = np.tensordot(images.astype(np.float64), LUMA, axes=(1, 0))[:, None]
    return grey.round().astype(np.uint8) if images.dtype == np.uint8 else grey.astype(images.dtype)


def fitted(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image [channels, height, width] as size × size: the middle square, brought to the size bilinearly."""
    height, width = image.shape[1:]
    short = min(height, width)
    top, left = round((height - short) / 2), round((width - short) / 2)
    middle = image[:, top : top + short, left : left + short]
    if short == size:
        return middle
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in middle]  # uint8 or float32, a channel each
    return np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR)) for plane in planes])
