"""Images changed at random, beside torchvision's functions for one image."""

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandAugment
from torchvision.transforms import functional as of_one

from clbench.data.augmentation import augmented, crop_and_flip, jittered, steps_of
from clbench.errors import UsageError


def images(n: int = 60, channels: int = 3) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    found = torch.randint(0, 256, (n, channels, 6, 8), dtype=torch.uint8, generator=draws)
    found[0], found[1], found[2, 0] = 0, 255, found[2, -1]  # black, white, and one whose red is its blue
    return found


def drawn(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmented_images_are_crops_of_their_padded_selves() -> None:
    x = torch.randint(1, 256, (400, 2, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = crop_and_flip(x, torch.Generator().manual_seed(1))
    assert made.shape == x.shape
    crops = torch.nn.functional.pad(x, (4,) * 4).unfold(2, 5, 1).unfold(3, 7, 1)  # [n, channels, top, left, 5, 7]
    both = torch.stack([crops, crops.flip(5)])
    image, flipped, top, left = (both == made[:, :, None, None]).all(6).all(5).all(2).transpose(0, 1).nonzero().T
    assert image.unique().tolist() == list(range(400))
    assert top.unique().tolist() == left.unique().tolist() == list(range(9))
    assert 0.4 < flipped.double().mean() < 0.6


@pytest.mark.parametrize(("crop", "flip"), [(True, True), (True, False), (False, True)])
def test_crops_and_flips_are_torchvisions_for_the_same_draws(crop: bool, flip: bool) -> None:
    x = images()
    made, again = crop_and_flip(x, drawn(), crop=crop, flip=flip), drawn()
    top, left = (torch.randint(9, (60, 1), generator=again) if crop else torch.full((60, 1), 4) for _ in range(2))
    flipped = torch.rand(60, 1, generator=again) < 0.5 if flip else torch.zeros(60, 1)
    for n in range(60):
        one = of_one.crop(of_one.pad(x[n], [4]), int(top[n]), int(left[n]), 6, 8)
        assert torch.equal(made[n], of_one.hflip(one) if flipped[n] else one)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_image_by_image(channels: int) -> None:
    x = images(channels=channels) / 255
    changes = torch.rand(60, 4, generator=drawn()) + torch.tensor([0.5, 0.5, 0.5, -0.5])
    made = jittered(x, changes)
    for n, (brightness, contrast, saturation, hue) in enumerate(changes.tolist()):
        one = of_one.adjust_contrast(of_one.adjust_brightness(x[n], brightness), contrast)
        one = of_one.adjust_hue(of_one.adjust_saturation(one, saturation), hue)
        torch.testing.assert_close(made[n], one, rtol=0, atol=2e-6)


def test_a_turn_of_the_hue_is_that_of_the_standard_library() -> None:
    x = images() / 255
    made = jittered(x, torch.tensor([[1.0, 1.0, 1.0, 0.3]]).expand(60, 4))
    for n in range(60):
        for pixel, new in zip(x[n].flatten(1).T.tolist(), made[n].flatten(1).T.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            assert new == pytest.approx(colorsys.hsv_to_rgb((hue + 0.3) % 1, saturation, value), abs=1e-5)


def test_jitter_draws_within_its_bounds_and_keeps_the_scale() -> None:
    x = torch.full((4000, 3, 1, 1), 8, dtype=torch.uint8)  # half of white, if 16 is white
    made = augmented(x, "jitter", 16.0, drawn())[:, 0, 0, 0] / 16  # grey: brightness alone changes it
    assert 0.3 <= made.min() < 0.301
    assert 0.699 < made.max() <= 0.7
    np.testing.assert_allclose(made.mean(), 0.5, atol=0.01)
    assert made.std().item() == pytest.approx(0.4 / np.sqrt(12), rel=0.03)  # U(0.3, 0.7)


def test_randaugment_is_torchvisions_image_by_image() -> None:
    x, state = images(8), torch.random.get_rng_state()
    made = augmented(x, "randaugment", 255.0, drawn())
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(int(torch.randint(2**62, (), generator=drawn())))
    assert torch.equal(made, torch.stack([RandAugment()(one) for one in x]))
    assert len({tuple(one.flatten().tolist()) for one in made}) == 8
    torch.random.set_rng_state(state)


@pytest.mark.parametrize("how", ["crop", "flip", "jitter", "randaugment", "crop+flip+jitter", True])
def test_a_seed_gives_the_same_images(how: str | bool) -> None:
    x = images()
    first, again, other = (augmented(x, how, 255.0, drawn(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_true_is_crop_and_flip() -> None:
    assert torch.equal(augmented(images(), True, 255.0, drawn()), augmented(images(), "crop+flip", 255.0, drawn()))
    assert steps_of(False) == ()
    with pytest.raises(UsageError, match=r"augment=crop\+flp: unknown step 'flp', did you mean flip"):
        steps_of("crop+flp")
