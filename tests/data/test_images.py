"""Image files and PIL's images as arrays, against PIL and torchvision."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.functional import center_crop, resize

from clbench.data.images import fitted, from_pil, read_image, with_channels

COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8))


def test_grey_has_one_channel_and_colour_three() -> None:
    assert np.array_equal(from_pil(COLOUR), np.asarray(COLOUR).transpose(2, 0, 1))
    grey = COLOUR.convert("L")
    assert np.array_equal(from_pil(grey), np.asarray(grey)[None])
    assert from_pil(COLOUR.convert("1")).max() == 255
    palette = COLOUR.convert("P")
    assert np.array_equal(from_pil(palette), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_kind_becomes_grey_or_colour(mode: str, channels: int) -> None:
    image = COLOUR.convert("L").convert(mode) if mode == "LA" else COLOUR.convert(mode)
    pixels = from_pil(image, channels)
    assert (pixels.shape, pixels.dtype) == ((channels, 12, 8), np.uint8)
    if mode in ("RGB", "RGBA", "CMYK", "L"):
        rgb = np.asarray(image.convert("RGB" if channels == 3 else "L") if mode != "CMYK" else image.convert("RGB"))
        expected = rgb if channels == 3 else np.asarray(image.convert("RGB").convert("L"))[:, :, None]
        assert np.abs(pixels.astype(int) - np.atleast_3d(expected).transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLOUR.convert("CMYK"), "its pixels are CMYK, neither grey nor RGB: channels=3 makes colour of them"),
        (COLOUR.convert("RGBA"), "its pixels are RGBA"),
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "more than 8 bits a pixel"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "more than 8 bits a pixel"),
    ],
)
def test_other_kinds_are_refused(image: Image.Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_pil(image)


def test_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    empty, text, cut, moving = (tmp_path / name for name in ("empty.png", "text.jpg", "cut.png", "moving.gif"))
    empty.write_bytes(b"")
    text.write_text("no image")
    COLOUR.resize((300, 300)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    COLOUR.save(moving, save_all=True, append_images=[COLOUR.rotate(90)])
    for path, message in (
        (empty, "the file is empty"),
        (text, "cannot identify image file"),
        (cut, "truncated"),
        (moving, "it has 2 frames"),
        (tmp_path / "none.png", "No such file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_image(path)


def test_a_wrong_ending_does_not_matter_and_exif_turns(tmp_path: Path) -> None:
    COLOUR.save(tmp_path / "really-a-png.jpg", format="PNG")
    assert np.array_equal(read_image(tmp_path / "really-a-png.jpg"), np.asarray(COLOUR).transpose(2, 0, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270° to see it upright
    COLOUR.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(COLOUR.transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    assert np.array_equal(read_image(tmp_path / "turned.png"), upright)


def test_channels_of_arrays() -> None:
    colour = np.asarray(COLOUR).transpose(2, 0, 1)[None]
    grey = with_channels(colour, 1)
    assert np.abs(grey[0, 0].astype(int) - np.asarray(COLOUR.convert("L"))).max() <= 1
    assert np.array_equal(with_channels(grey, 3)[0], np.stack([grey[0, 0]] * 3))
    assert with_channels(colour, None) is colour
    assert with_channels(colour.astype(np.float32), 1).dtype == np.float32
    with pytest.raises(ValueError, match="no rule makes 3 channels of 4"):
        with_channels(np.zeros((1, 4, 2, 2)), 3)


@pytest.mark.parametrize("size", [(12, 12), (24, 12), (40, 60)])
@pytest.mark.parametrize("target", [12, 6])
def test_the_middle_square_is_brought_to_the_size(size: tuple[int, int], target: int) -> None:
    image = COLOUR.resize(size, Image.Resampling.BICUBIC)
    short = min(size)
    expected = np.asarray(resize(center_crop(image, [short, short]), [target, target])).transpose(2, 0, 1)
    found = fitted(from_pil(image), target)
    assert np.array_equal(found, expected)
