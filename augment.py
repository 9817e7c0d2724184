"""Random changes of a batch of images: batched tensor operations on the images' device, with a draw per sample.

| level | what it does |
| --- | --- |
| none | only normalises |
| light | mirrors half of the images |
| medium | and shifts up to 6 %, scales within 10 %, turns within 10 degrees; brightness, contrast, saturation within 20 % |
| strong | the same up to 10 %, 15 %, 15 degrees and 35 %; half of the images lose a box of 2 to 10 % of their area |

No vertical flip and no strong rotation: faces stand upright in the competition's images, and teams lost score by both.
The erased box stays small, as one that hides the mouth turns "not worn" or "incorrect" into a false example of a mask.

Drawing and changing are apart: `draw` makes all random numbers of a batch on the CPU, so every device gets the same
ones, and row i of them belongs to sample i, so a rank that holds some rows of a batch takes the same rows of the draw.
"""

import torch
import torch.nn.functional as F

from errors import InputError, did_you_mean

# flip probability, then the widest shift (of the side), scale, rotation (degrees), colour change; erasing probability
LEVELS = {
    "none": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "light": (0.5, 0.0, 0.0, 0.0, 0.0, 0.0),
    "medium": (0.5, 0.06, 0.10, 10.0, 0.20, 0.0),
    "strong": (0.5, 0.10, 0.15, 15.0, 0.35, 0.5),
}
AUGS = tuple(LEVELS)
ERASED_AREA = (0.02, 0.10)
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
PARAMS = (
    *("flip", "shift_x", "shift_y", "scale", "degrees"),
    *("brightness", "contrast", "saturation"),
    *("area", "aspect", "left", "top"),
)


def draw(aug, batch_size, generator):
    """Draw the random numbers of a batch: float32 [batch_size, len(PARAMS)] on the CPU, one row a sample.

    flip 0 or 1; shift_x, shift_y as parts of the width and height, positive to the right and down; scale; degrees,
    positive clockwise; brightness, contrast, saturation as factors; the erased box's area (0: none) as a part of the
    image, its aspect (height over width, both as parts of the sides) and its place, 0 to 1 from border to border.
    generator: a torch.Generator of the CPU; every level takes the same number of draws from it. Raises InputError for
    an unknown level.
    """
    if aug not in LEVELS:
        raise InputError(f'unknown augmentation "{aug}"; allowed: {", ".join(AUGS)}.{did_you_mean(aug, AUGS)}')
    flip, shift, scale, degrees, colour, erase = LEVELS[aug]
    u = torch.rand(batch_size, len(PARAMS) + 1, generator=generator)
    low = torch.tensor([0, -shift, -shift, 1 - scale, -degrees, *[1 - colour] * 3, ERASED_AREA[0], -1, 0, 0])
    high = torch.tensor([1, shift, shift, 1 + scale, degrees, *[1 + colour] * 3, ERASED_AREA[1], 1, 1, 1])
    params = low + (high - low) * u[:, :-1]
    params[:, PARAMS.index("flip")] = (u[:, PARAMS.index("flip")] < flip).float()
    params[:, PARAMS.index("area")] *= u[:, -1] < erase
    params[:, PARAMS.index("aspect")].exp2_()  # 1/2 to 2, as often tall as wide
    return params


def normalise(images, mean, std):
    """(images / 255 - mean) / std: uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in channels_last memory, on their device.

    mean, std: 3 numbers in units of 0..1, as a tuple or a tensor; tensors on the device are not copied at each call.
    """
    B, H, W, C = images.shape
    mean, std = _constants(mean, std, images.device)
    # Rows of W * 3 against constants repeated W times: an inner loop over 3 channels is eight times slower on a CPU.
    rows = images.reshape(B, H, W * C).float()
    rows.mul_((1 / (255 * std)).repeat(W)).add_((-mean / std).repeat(W))
    return rows.view(B, H, W, C).permute(0, 3, 1, 2)


def augment(images, params, aug, mean, std):
    """Change each image by its row of `params` and normalise: float32 [B, 3, H, W] in channels_last memory.

    images: uint8 [B, H, W, 3]. params: float32 [B, len(PARAMS)] from draw(aug, ...), or rows of it, moved to the device
    of the images without waiting for it. mean, std as in normalise, which is all that 'none' does. Colours are not
    clipped to 0..1. Raises ValueError for an unknown level and when images or params do not fit.
    """
    if aug not in LEVELS or images.dtype != torch.uint8 or params.shape != (len(images), len(PARAMS)):
        raise ValueError(
            f'"{aug}" of images {images.dtype} {tuple(images.shape)} with params {tuple(params.shape)}; '
            f"it takes one of {AUGS}, uint8 [B, H, W, 3] and [B, {len(PARAMS)}]"
        )
    if aug == "none":
        return normalise(images, mean, std)
    params = params.to(images.device, non_blocking=True)
    if aug == "light":
        flip = params[:, PARAMS.index("flip")] > 0.5
        return normalise(torch.where(flip[:, None, None, None], images.flip(2), images), mean, std)

    B, H, W, C = images.shape
    mean, std = _constants(mean, std, images.device)
    out = torch.empty(B, C, H, W, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
    # A CPU is a third faster in pieces that fit its cache (and asks the system for no new memory at each batch).
    size = 16 if images.device.type == "cpu" else B
    # Autocast would do the colours' matrix product in bfloat16.
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, B, size):
            piece = slice(start, start + size)
            columns = params[piece].unbind(1)
            pixels = images[piece].permute(0, 3, 1, 2).float()
            mean_colour = pixels.mean((2, 3))
            matrix, offset = colour_change(mean_colour, *columns[5:8], mean, std)
            pixels = warp(pixels, *columns[:5])
            pixels = torch.baddbmm(offset, matrix, pixels.flatten(2)).view_as(pixels)
            if aug == "strong":
                fill = torch.baddbmm(offset, matrix, mean_colour[:, :, None])[..., None]
                pixels = pixels.lerp(fill, erased_box(*columns[8:], H, W))
            out[piece] = pixels
    return out


def view(images, flipped, shift_x, shift_y):
    """A view for TTA: float images [B, 3, H, W] mirrored if `flipped`, then moved by parts of the width and height.

    Positive is to the right and down; shifts are rounded to whole pixels and borders are reflected as by `warp`. The memory
    format stays.
    """
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    images = images.flip(-1) if flipped else images
    for dim, part in ((3, shift_x), (2, shift_y)):
        side = images.shape[dim]
        source = torch.arange(side, device=images.device) - round(part * side)
        if part:
            source = torch.where(source < 0, -1 - source, source)
            images = images.index_select(dim, torch.where(source >= side, 2 * side - 1 - source, source))
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _constants(mean, std, device):
    return (torch.as_tensor(v, dtype=torch.float32).to(device, non_blocking=True) for v in (mean, std))


def warp(pixels, flip, shift_x, shift_y, scale, degrees):
    """Mirror, then scale and turn about the centre, then shift, in one bilinear sampling with reflected borders.

    pixels float32 [B, 3, H, W]; the rest [B] as in draw. The turn is one of pixels, not of a square stretched to H x W.
    """
    H, W = pixels.shape[2:]
    # Where each output pixel comes from, so the inverse: shift back, turn back and scale, mirror; the sides span -1..1.
    x = (2 * torch.arange(W, device=pixels.device) + 1) / W - 1 - 2 * shift_x[:, None]
    y = (2 * torch.arange(H, device=pixels.device) + 1) / H - 1 - 2 * shift_y[:, None]
    mirror = 1 - 2 * flip
    cos, sin = (f(torch.deg2rad(degrees)) / scale for f in (torch.cos, torch.sin))
    along_x = torch.stack((mirror * cos, -sin * W / H), dim=1)[:, :, None] * x[:, None, :]
    along_y = torch.stack((mirror * sin * H / W, cos), dim=1)[:, :, None] * y[:, None, :]
    # Added as two planes: with the coordinates interleaved it is eight times slower on a CPU, and sampling takes either.
    grid = (along_x[:, :, None, :] + along_y[:, :, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour_change(mean_colour, brightness, contrast, saturation, mean, std):
    """Brightness, then contrast about the image's grey mean, then saturation, then normalising, as one linear map.

    mean_colour [B, 3] of the image in 0..255, factors [B] as in draw, mean and std [3] -> matrix [B, 3, 3] and offset
    [B, 3, 1] of out = matrix @ colour + offset. With x a colour, g its grey and m the grey mean:
    y = brightness * (contrast * x + (1 - contrast) * m), out = saturation * y + (1 - saturation) * grey(y).
    """
    grey = torch.stack([torch.full_like(brightness, part) for part in GREY], dim=1)  # made on the device, not copied
    grey_mean = (mean_colour * grey).sum(1)
    own = (brightness * contrast * saturation)[:, None, None] * torch.eye(3, device=grey.device)
    matrix = own + (brightness * contrast * (1 - saturation))[:, None, None] * grey[:, None, :]
    offset = (brightness * (1 - contrast) * grey_mean)[:, None] / 255 - mean
    return matrix / (255 * std[:, None]), (offset / std)[:, :, None]


def erased_box(area, aspect, left, top, height, width):
    """1.0 inside the box that [B] draws describe and 0.0 outside: float32 [B, 1, height, width]."""

    def inside(place, length, pixels):
        centres = (torch.arange(pixels, device=area.device) + 0.5) / pixels
        start = (place * (1 - length))[:, None]
        return ((centres >= start) & (centres < start + length[:, None])).float()

    rows = inside(top, (area * aspect).sqrt(), height)
    columns = inside(left, (area / aspect).sqrt(), width)
    return (rows[:, :, None] * columns[:, None, :])[:, None]
