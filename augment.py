"""Augmentation, TTA views and mixing: batched tensor operations on the images' device, with a random draw per sample.

Faces stand upright, so nothing flips or turns them far; the erased box is small, as one over the mouth makes a false mask.
All random numbers of a batch are drawn on the CPU, so every device gets the same ones; row i of them belongs to sample i.
"""

import numpy as np
import torch
import torch.nn.functional as F

# flip probability, then the widest shift (of the side), scale, rotation (degrees), colour change; erasing probability
LEVELS = {
    "none": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "light": (0.5, 0.0, 0.0, 0.0, 0.0, 0.0),
    "medium": (0.5, 0.06, 0.10, 10.0, 0.20, 0.0),
    "strong": (0.5, 0.10, 0.15, 15.0, 0.35, 0.5),
}
ERASED_AREA = (0.02, 0.10)
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
PARAMS = ("flip", "shift_x", "shift_y", "scale", "degrees", "brightness", "contrast", "saturation",
          "area", "aspect", "left", "top")  # fmt: skip
PLACES = ((0.0, 0.0), (-0.04, 0.0), (0.04, 0.0), (0.0, -0.04), (0.0, 0.04))
# The views over which predictions are averaged (Krizhevsky et al. 2012): (flipped, shift right and down as parts of the sides).
TTAS = {
    "none": ((False, 0.0, 0.0),),
    "hflip": ((False, 0.0, 0.0), (True, 0.0, 0.0)),
    "shift": tuple((False, *place) for place in PLACES),
    "hflip+shift": tuple((flipped, *place) for flipped in (False, True) for place in PLACES),
}


def draw_augment(aug, batch_size, generator):
    """The random numbers of a batch: float32 [batch_size, len(PARAMS)] on the CPU; every level takes as many draws.
    Shifts are parts of the sides, to the right and down; degrees are clockwise; colours are factors; of the erased box the area
    (0: none) is a part of the image, the aspect height over width as parts of the sides, the place 0 to 1 between borders."""
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
    """(images / 255 - mean) / std: uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in channels_last memory; mean, std: RGB."""
    B, H, W, C = images.shape
    mean, std = _constants(mean, std, images.device)
    # Rows of W * 3 against constants repeated W times: an inner loop over 3 channels is eight times slower on a CPU.
    rows = images.reshape(B, H, W * C).float()
    rows.mul_((1 / (255 * std)).repeat(W)).add_((-mean / std).repeat(W))
    return rows.view(B, H, W, C).permute(0, 3, 1, 2)


def augment(images, params, aug, mean, std):
    """Change each image by its row of `params` and normalise: float32 [B, 3, H, W] in channels_last memory. images: uint8
    [B, H, W, 3]. params: rows of draw_augment(aug, ...). Colours are not clipped to 0..1."""
    if aug == "none":
        return normalise(images, mean, std)
    if aug == "light":
        flip = params[:, PARAMS.index("flip")].to(images.device, non_blocking=True) > 0.5
        return normalise(torch.where(flip[:, None, None, None], images.flip(2), images), mean, std)

    B, H, W, C = images.shape
    mean, std = _constants(mean, std, images.device)
    grey, x, y, *by_sample = to_device(transforms_of(params, H, W), images.device)
    out = torch.empty(B, C, H, W, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
    # A CPU is a third faster in pieces that fit its cache (and asks the system for no new memory at each batch).
    size = 16 if images.device.type == "cpu" else B
    # Autocast would do the colours' matrix product in bfloat16.
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, B, size):
            shift, turn, matrix, lift, box = (values[start : start + size] for values in by_sample)
            pixels = images[start : start + size].permute(0, 3, 1, 2).float()
            mean_colour = pixels.mean((2, 3))
            matrix = matrix / (255 * std[:, None])
            offset = ((lift * (mean_colour * grey).sum(1, keepdim=True) / 255 - mean) / std)[:, :, None]
            pixels = warp(pixels, shift, turn, x, y)
            pixels = torch.baddbmm(offset, matrix, pixels.flatten(2)).view_as(pixels)
            if aug == "strong":
                fill = torch.baddbmm(offset, matrix, mean_colour[:, :, None])[..., None]
                pixels = torch.where(box_mask(box, x, y), fill, pixels)
            out[start : start + size] = pixels
    return out


def view(images, flipped, shift_x, shift_y):
    """A view for TTA: float images [B, 3, H, W] mirrored if `flipped`, then moved by parts of the width and height. Positive is
    to the right and down; shifts are rounded to whole pixels and borders are reflected as by `warp`."""
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


def transforms_of(params, height, width):
    """GREY [3], pixels' centres x [width] and y [height] in -1..1, then by sample shift, turn, colour matrix and lift, and box.
    Computed on the CPU: a GPU would take longer to begin fifty small sums than for all the rest."""
    flip, shift_x, shift_y, scale, degrees, brightness, contrast, saturation, *box = params.unbind(1)
    return (
        torch.tensor(GREY, device=params.device),
        *((2 * torch.arange(side, device=params.device) + 1) / side - 1 for side in (width, height)),
        2 * torch.stack((shift_x, shift_y), dim=1),
        affine_matrices(flip, scale, degrees, height, width),
        *colour_matrix(brightness, contrast, saturation),
        erased_box(*box),
    )


def to_device(tensors, device):
    """These float32 tensors on a device, by one copy."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        flat = flat.pin_memory()  # of other memory a copy of more than 64 KB waits for the device
    flat = flat.to(device, non_blocking=True)
    return [part.view_as(tensor) for part, tensor in zip(flat.split([tensor.numel() for tensor in tensors]), tensors)]


def affine_matrices(flip, scale, degrees, height, width):
    """Matrices from a pixel of the mirrored, scaled and turned image to its source: [B] each -> float32 [B, 2, 2]. The first
    row times the pixel's x, plus the second times its y, is a place (x, y) in the image; sides span -1..1."""
    mirror = 1 - 2 * flip
    cos, sin = (f(torch.deg2rad(degrees)) / scale for f in (torch.cos, torch.sin))
    by_x = torch.stack((mirror * cos, -sin * width / height), dim=1)
    return torch.stack((by_x, torch.stack((mirror * sin * height / width, cos), dim=1)), dim=1)


def warp(pixels, shift, turn, x, y):
    """Turn about the centre, then shift, in one bilinear sampling with reflected borders. pixels float32 [B, 3, H, W]; shift
    [B, 2], in the units of x and y; turn [B, 2, 2] of `affine_matrices`; x [W], y [H] of `transforms_of`."""
    x, y = x - shift[:, :1], y - shift[:, 1:]
    along_x, along_y = turn[:, 0, :, None] * x[:, None], turn[:, 1, :, None] * y[:, None]
    # Added as two planes: with the coordinates interleaved it is eight times slower on a CPU, and sampling takes either.
    grid = (along_x[:, :, None, :] + along_y[:, :, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour_matrix(brightness, contrast, saturation):
    """Brightness, then contrast about the image's grey mean, then saturation, as one linear map.
    Factors [B] -> matrix [B, 3, 3] and lift [B, 1] of out = matrix @ x + lift * m, with x a colour and m the grey mean:
    y = brightness * (contrast * x + (1 - contrast) * m), out = saturation * y + (1 - saturation) * grey(y)."""
    own = (brightness * contrast * saturation)[:, None, None] * torch.eye(3, device=brightness.device)
    grey = torch.tensor(GREY, device=brightness.device)
    matrix = own + (brightness * contrast * (1 - saturation))[:, None, None] * grey
    return matrix, (brightness * (1 - contrast))[:, None]


def erased_box(area, aspect, left, top):
    """The edges of the box that [B] draws describe: float32 [B, 4], left, right, upper, lower, where sides span -1..1."""
    width, height = (area / aspect).sqrt(), (area * aspect).sqrt()
    left, top = left * (1 - width), top * (1 - height)
    return 2 * torch.stack((left, left + width, top, top + height), dim=1) - 1


def box_mask(box, x, y):
    """Mask bool [B, 1, H, W] of the pixels in the box [B, 4] of `erased_box`; x [W], y [H] as in `warp`."""
    left, right, upper, lower = box[:, :, None].unbind(1)
    columns, rows = (x >= left) & (x < right), (y >= upper) & (y < lower)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def draw_mix(mix, count, prob, alpha, generator):
    """Mask bool [count] of the mixed samples, float32 [count, 4] share, x, y, side, float64 [count] in 0..1 for the partners.
    share of the sample itself, Beta(alpha, alpha); x, y: where cutmix's box lies, 0 to 1 from border to border; side: 0 where
    halves takes the partner's left half, 1 its right one. generator: numpy's."""
    mixed = generator.random(count) < prob if mix != "none" else np.zeros(count, dtype=bool)
    share = generator.beta(alpha, alpha, count)
    x, y, partner = generator.random((3, count))
    side = generator.integers(0, 2, count)
    return mixed, torch.from_numpy(np.stack([share, x, y, side], axis=1).astype(np.float32)), partner


def own_share(mix, params, height, width):
    """The sample's own share of each pixel, float32 [B, 1, height, width] (mixup: [B, 1, 1, 1])."""
    share, x, y, side = params.unbind(1)
    if mix == "mixup":
        return share[:, None, None, None]
    columns = (torch.arange(width, device=params.device) + 0.5) / width
    if mix == "halves":
        own = ((columns < 0.5) == (side[:, None] > 0.5)).float()
        return own[:, None, None, :].expand(-1, 1, height, -1)
    rows = (torch.arange(height, device=params.device) + 0.5) / height
    length = (1 - share).sqrt()

    def inside(centres, place):
        start = (place * (1 - length))[:, None]
        return (centres >= start) & (centres < start + length[:, None])

    return 1 - (inside(rows, y)[:, :, None] & inside(columns, x)[:, None, :]).float()[:, None]


def mix_batch(mix, images, targets, mixed, params, others, other_targets):
    """Images [B, 3, H, W] and soft targets [B, C], changed in place at `mixed` (int64 [M]; bools would make a GPU wait). params
    [M, 4] of those by `draw_mix`; others [M, 3, H, W] and other_targets [M, C]: their partners."""
    own = own_share(mix, params, *images.shape[2:])
    share = own.mean((2, 3))
    images[mixed] = images[mixed] * own + others * (1 - own)
    targets[mixed] = targets[mixed] * share + other_targets * (1 - share)
    return images, targets
