"""augment.py: augmentation by hand and against torchvision, TTA views, mixing."""

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import affine as torchvision_affine

import augment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAW = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # a mean and std that leave images in 0..255


def images_of(B, H, W, seed=0):
    return torch.randint(0, 256, (B, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def params_of(B=1, **values):
    """Rows that change nothing but what is given."""
    params = torch.zeros(B, len(augment.PARAMS))
    for name in ("scale", "brightness", "contrast", "saturation", "aspect"):
        params[:, augment.PARAMS.index(name)] = 1
    for name, value in values.items():
        params[:, augment.PARAMS.index(name)] = torch.as_tensor(value, dtype=torch.float32)
    return params


def draw(aug, batch_size, seed=0):
    return augment.draw_augment(aug, batch_size, torch.Generator().manual_seed(seed))


def direct_normalise(images):
    pixels = images.permute(0, 3, 1, 2).double() / 255
    return ((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).float()


def test_normalise_by_hand():
    """Value 51 is 0.2; (0.2 - 0.5) / 0.1 = -3, (0.2 - 0.1) / 0.2 = 0.5, (0.2 - 0) / 1 = 0.2."""
    out = augment.normalise(torch.full((1, 2, 3, 3), 51, dtype=torch.uint8), (0.5, 0.1, 0), (0.1, 0.2, 1))
    assert out.shape == (1, 3, 2, 3)
    torch.testing.assert_close(out[0, :, 1, 2], torch.tensor([-3, 0.5, 0.2]))


@pytest.mark.parametrize("aug", augment.LEVELS)
def test_output_is_float32_channels_last_each_image_by_its_own_row(aug):
    """On a CPU in several pieces; autocast changes nothing, and neither do the images."""
    images, params = images_of(40, 18, 14), draw(aug, 40)
    before, out = images.clone(), augment.augment(images, params, aug, MEAN, STD)
    assert out.shape == (40, 3, 18, 14) and out.dtype == torch.float32 and out.device == images.device
    assert out.is_contiguous(memory_format=torch.channels_last) and out.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment.augment(images, params, aug, MEAN, STD), out)
    for rows in (slice(0, 20), slice(20, 40), slice(1, None, 4), slice(7, 8)):
        part = augment.augment(images[rows], params[rows], aug, MEAN, STD)
        torch.testing.assert_close(part, out[rows], atol=1e-5, rtol=0)
    assert torch.equal(images, before)


@pytest.mark.parametrize("aug", augment.LEVELS)
@pytest.mark.parametrize("size", [(16, 16), (128, 96), (7, 10)])
def test_identity_is_normalise(aug, size):
    """The grid's coordinates round at 1e-5 of a pixel, a thousandth of a grey level."""
    images = images_of(2, *size)
    out = augment.augment(images, params_of(2), aug, MEAN, STD)
    torch.testing.assert_close(out, direct_normalise(images), atol=2e-4, rtol=0)


@pytest.mark.parametrize("size", [(24, 24), (32, 20), (15, 28)])
@pytest.mark.parametrize(("degrees", "shift", "scale", "flip"), [
    (90, (0, 0), 1, 0), (17, (0, 0), 1, 0), (-33, (2, -3), 1, 1), (12, (-1, 2), 1.3, 0), (-90, (3, 1), 0.8, 1),
])  # fmt: skip
def test_warp_is_torchvision_s_affine(size, degrees, shift, scale, flip):
    """In the disc that no border reaches; torchvision fills the rest with 0, and knows no flip, so it gets the mirror."""
    H, W = size
    pixels = images_of(1, H, W).permute(0, 3, 1, 2).float()
    values = {"flip": flip, "shift_x": shift[0] / W, "shift_y": shift[1] / H, "scale": scale, "degrees": degrees}
    _grey, x, y, move, turn, *_rest = augment.transforms_of(params_of(**values), H, W)
    ours = augment.warp(pixels, move, turn, x, y)
    mirrored = pixels.flip(3) if flip else pixels
    theirs = torchvision_affine(mirrored, degrees, shift, scale, shear=[0.0], interpolation=InterpolationMode.BILINEAR)
    y, x = torch.arange(H)[:, None] - (H - 1) / 2 - shift[1], torch.arange(W) - (W - 1) / 2 - shift[0]
    inside = (x**2 + y**2).sqrt() / scale < min(H, W) / 2 - 1
    assert inside.sum() > 80
    torch.testing.assert_close(ours[..., inside], theirs[..., inside], atol=0.05, rtol=0)


def direct_colours(image, brightness, contrast, saturation):
    """Brightness, then contrast about the grey mean, then saturation, one after the other: float64 [H, W, 3]."""
    luma = torch.tensor(augment.GREY, dtype=torch.float64)
    image = brightness * image.double()
    grey_mean = (image @ luma).mean()
    image = contrast * image + (1 - contrast) * grey_mean
    return saturation * image + (1 - saturation) * (image @ luma)[..., None]


def test_colours_equal_one_step_after_the_other():
    """And by hand: a red pixel (200, 0, 0) has the grey 0.299 * 200 = 59.8."""
    images = images_of(5, 8, 6)
    factors = 0.65 + 0.7 * torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    params = params_of(5, brightness=factors[:, 0], contrast=factors[:, 1], saturation=factors[:, 2])
    changed = [direct_colours(image, *row.tolist()) for image, row in zip(images, factors)]
    expected = ((torch.stack(changed) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).float()
    for aug in ("medium", "strong"):
        torch.testing.assert_close(augment.augment(images, params, aug, MEAN, STD), expected, atol=2e-4, rtol=0)
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).expand(4, 1, 2, 3)
    params = params_of(4, brightness=[0.5, 1, 1, 1], contrast=[1, 0, 1, 1], saturation=[1, 1, 0, 0.5])
    by_hand = torch.tensor([[100.0, 0, 0], [59.8] * 3, [59.8] * 3, [129.9, 29.9, 29.9]])
    torch.testing.assert_close(augment.augment(red, params, "medium", *RAW)[..., 0, 0], by_hand, atol=1e-3, rtol=1e-5)


def test_erased_box_by_hand():
    """Area 1/4 at aspect 1 is half of both sides: 2 of 4 rows and 3 of 6 columns; left 0 and top 1 put it bottom left.
    It takes the mean of the image: 40 where a quarter of the pixels is 160, with brightness 0.5 then 20."""
    images = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
    images[:, :2, :3] = 160
    params = params_of(area=0.25, left=0, top=1, brightness=0.5)
    out = augment.augment(images, params, "strong", *RAW)
    expected = torch.zeros(4, 6)
    expected[:2, :3], expected[2:, :3] = 80, 20
    torch.testing.assert_close(out[0], expected.expand(3, 4, 6), atol=1e-3, rtol=0)
    untouched = augment.augment(images, params, "medium", *RAW)
    assert untouched[0, :, 2:].abs().max() < 1e-3


@pytest.mark.parametrize("size", [(128, 128), (128, 96)])
def test_erased_area_is_in_range_and_half_of_the_images_have_none(size):
    params = draw("strong", 1000)
    _grey, x, y, *_by_sample, box = augment.transforms_of(params, *size)
    boxes = augment.box_mask(box, x, y)
    assert boxes.shape == (1000, 1, *size) and boxes.dtype == torch.bool
    boxes = boxes.float()
    area = boxes.mean((1, 2, 3))
    erased = area > 0
    assert 0.45 < erased.float().mean() < 0.55
    assert area[erased].min() > 0.02 * 0.85 and area.max() < 0.10 * 1.1  # sides are rounded to pixels
    assert 0.055 < area[erased].mean() < 0.065
    often = boxes.mean((0, 1))  # half of 6 % in the mean, more in the middle, never nothing on an edge
    assert often[size[0] // 2, size[1] // 2] < 0.08 and often[:, [0, -1]].any(0).all() and often[[0, -1]].any(1).all()


def test_draws_lie_in_their_level_s_ranges():
    for aug, (flip, shift, scale, degrees, colour, erase) in augment.LEVELS.items():
        params = draw(aug, 4000)
        assert params.shape == (4000, len(augment.PARAMS)) and params.dtype == torch.float32
        column = dict(zip(augment.PARAMS, params.T))
        assert column["flip"].mean() == pytest.approx(flip, abs=0.04)
        assert (column["area"] > 0).float().mean() == pytest.approx(erase, abs=0.04)
        ranges = {"shift_x": (0, shift), "shift_y": (0, shift), "scale": (1, scale), "degrees": (0, degrees)}
        ranges |= dict.fromkeys(("brightness", "contrast", "saturation"), (1, colour))
        for name, (centre, width) in ranges.items():
            assert (column[name] - centre).abs().max() <= width + 1e-6
            assert column[name].max() >= centre + 0.97 * width and column[name].min() <= centre - 0.97 * width
        assert column["aspect"].min() >= 0.5 and column["aspect"].max() <= 2
    assert not torch.corrcoef(draw("strong", 4000).T).sub(torch.eye(12)).abs().gt(0.06).any()  # columns are independent


def test_a_view_by_hand():
    """Of 5 columns 40 % are 2: to the right the first two mirror columns 1 and 0, to the left the last two 4 and 3; 1 row down."""
    images = torch.arange(10.0).reshape(1, 1, 2, 5).expand(1, 3, 2, 5)
    assert augment.view(images, False, 0.4, 0.0)[0, 0].tolist() == [[1, 0, 0, 1, 2], [6, 5, 5, 6, 7]]
    assert augment.view(images, False, -0.4, 0.0)[0, 1].tolist() == [[2, 3, 4, 4, 3], [7, 8, 9, 9, 8]]
    assert augment.view(images, False, 0.0, 0.5)[0, 2].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert augment.view(images, True, 0.2, -0.5)[0, 0].tolist() == [[9, 9, 8, 7, 6], [9, 9, 8, 7, 6]]
    assert torch.equal(augment.view(images, False, 0.0, 0.0), images)


@pytest.mark.parametrize(("flipped", "x", "y"), [(True, 0, 0), (False, 3, 0), (True, -2, 1), (False, 0, -4)])
def test_a_view_is_an_augmentation_by_whole_pixels(flipped, x, y):
    pixels = images_of(2, 20, 16)
    images = direct_normalise(pixels).contiguous(memory_format=torch.channels_last)
    seen = augment.view(images, flipped, (x + 0.3) / 16, (y - 0.4) / 20)  # rounded to x and y
    params = params_of(2, flip=float(flipped), shift_x=x / 16, shift_y=y / 20)
    for aug in ("medium", "strong") if x or y else ("light", "medium", "strong"):
        torch.testing.assert_close(seen, augment.augment(pixels, params, aug, MEAN, STD), atol=2e-4, rtol=0)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(augment.view(images.contiguous(), flipped, x / 16, y / 20), seen, atol=0, rtol=0)


@pytest.mark.parametrize(("mix", "row", "pixels", "target"), [
    ("mixup", [0.75, 0, 0, 0], [[0.75] * 4] * 4, [0.75, 0.25]),
    ("halves", [0.9, 0.1, 0.1, 0], [[0, 0, 1, 1]] * 4, [0.5, 0.5]),  # side 0: the partner's left half
    ("halves", [0.9, 0.1, 0.1, 1], [[1, 1, 0, 0]] * 4, [0.5, 0.5]),
    ("halves", [0.5, 0, 0, 1], [[1, 1, 0, 0, 0]] * 5, [0.4, 0.6]),  # the middle of 5 columns is 0.5, not below it
    # share 0.75: a box of half the sides, here at the left border below: 4 of 16 pixels are the partner's
    ("cutmix", [0.75, 0, 1, 0], [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], [0.75, 0.25]),
])  # fmt: skip
def test_mixes_by_hand(mix, row, pixels, target):
    """A white image of class 0 mixed with a black one of class 1."""
    white, (own, other) = torch.ones(1, 3, len(pixels), len(pixels)), torch.eye(2).split(1)
    images, targets = augment.mix_batch(mix, white, own, torch.tensor([0]), torch.tensor([row]), torch.zeros_like(white), other)
    assert images.tolist() == [[pixels] * 3] and targets.tolist() == [pytest.approx(target)]


def test_only_the_mixed_samples_change_and_each_by_its_own_partner():
    images, targets = torch.zeros(3, 3, 2, 2), torch.eye(3)
    others, other_targets = torch.full((2, 3, 2, 2), 8.0), torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    others[1] = 4
    rows = torch.tensor([[0.75, 0, 0, 0], [0.5, 0, 0, 0]])
    mixed = torch.tensor([0, 2])
    images, targets = augment.mix_batch("mixup", images, targets, mixed, rows, others, other_targets)
    assert images[:, 0, 0, 0].tolist() == [2, 0, 2]
    assert targets.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]]


def draw_mix(mix, prob=0.5, alpha=1.0, seed=0, count=4000):
    return augment.draw_mix(mix, count, prob, alpha, np.random.default_rng(seed))


def test_mixes_are_a_function_of_the_generator_with_shares_of_beta_and_boxes_of_that_area_everywhere():
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))."""
    for one, other in zip(draw_mix("cutmix"), draw_mix("cutmix")):
        assert (torch.as_tensor(one) == torch.as_tensor(other)).all()
    assert draw_mix("cutmix", prob=0.3)[0].mean() == pytest.approx(0.3, abs=0.03)
    assert not draw_mix("none")[0].any() and draw_mix("mixup", prob=1.0)[0].all()
    for alpha in (0.2, 1.0, 4.0):
        share = draw_mix("mixup", alpha=alpha, count=20000)[1][:, 0].double()
        assert share.mean() == pytest.approx(0.5, abs=0.01)
        assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    rows = draw_mix("cutmix", count=500)[1]
    own = augment.own_share("cutmix", rows, 40, 60)
    assert (own.mean((1, 2, 3)) - rows[:, 0]).abs().max() < 0.06
    covered = (own == 0).float().mean(0)[0]
    assert covered.min() > 0.03  # corners least
