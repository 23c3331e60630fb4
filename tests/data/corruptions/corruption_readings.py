"""A slow reading of each published description but of noise: one image, plain loops, (image, rng, *parameters)."""

import colorsys
import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage

from arada.data import corruptions


def photographs(count, height=24, width=24, seed=0):
    """Smooth coloured noise with black, white and grey patches."""
    noise = np.random.default_rng(seed).standard_normal((count, height, width, 3))
    smooth = ndimage.gaussian_filter(noise, 2, axes=(1, 2)) + ndimage.gaussian_filter(noise, 0.5, axes=(1, 2)) / 6
    images = np.clip(128 + 400 * smooth, 0, 255).astype(np.uint8)
    images[:, :3, :3], images[:, :3, -3:], images[:, -3:, :3] = 0, 255, 90
    return images


def levels(x):
    """[0, 1] cut down to whole grey levels; the millionth is for rounding errors about a whole one."""
    return (np.clip(x, 0, 1) * 255 + 1e-6).astype(np.uint8)


def correlated(x, kernel, border):
    """Correlation by loops over the kernel; `border` as numpy.pad names it."""
    down, right = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(x, ((down, down), (right, right), *[(0, 0)] * (x.ndim - 2)), mode=border)
    result = np.zeros(x.shape)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            result += kernel[i, j] * padded[i : i + x.shape[0], j : j + x.shape[1]]
    return result


def bell(sigma, reach):
    along = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return along / along.sum()


def blurred(x, sigma, border="edge", truncate=4):
    if sigma == 0:
        return x
    along = bell(sigma, int(truncate * sigma + 0.5))
    return correlated(correlated(x, along[None], border), along[:, None], border)


def hsv(image, change):
    """Changes the hue, saturation and value of each pixel."""
    pixels = (change(*colorsys.rgb_to_hsv(*pixel)) for pixel in image.reshape(-1, 3) / 255)
    return levels(np.array([colorsys.hsv_to_rgb(*pixel) for pixel in pixels]).reshape(image.shape))


def brightened(image, rng, more):
    return hsv(image, lambda hue, saturation, value: (hue, saturation, min(value + more, 1)))


def saturated(image, rng, a, b):
    return hsv(image, lambda hue, saturation, value: (hue, min(a * saturation + b, 1), value))


def contrasted(image, rng, left):
    return levels(left * (image / 255) + (1 - left) * np.mean(image / 255, axis=(0, 1)))


def softened(image, rng, sigma):
    return levels(blurred(image / 255, sigma))


def defocused(image, rng, radius, sigma):
    reach = 8 if radius <= 8 else radius
    along = np.arange(-reach, reach + 1)
    disc = (np.add.outer(along**2, along**2) <= radius**2) * 1.0
    small = bell(sigma, 1 if radius <= 8 else 2)
    disc = correlated(disc / disc.sum(), np.outer(small, small), "reflect")
    return levels(correlated(image / 255, disc, "reflect"))


def zoomed(x, factor):
    side = len(x)
    crop = math.ceil(side / factor)
    top = (side - crop) // 2
    large = ndimage.zoom(x[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
    trim = (len(large) - side) // 2
    return large[trim : trim + side, trim : trim + side]


def zoom_blurred(image, rng, largest, step):
    x, factors = image / 255, np.arange(1, largest, step)
    return levels((x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1))


def pixelated(image, rng, left):
    """Means of the whole pixels in each box, columns before rows, down and up again; halves are rounded up."""

    def means(x, side):
        scale = len(x) / side
        half = max(scale, 1) / 2
        parts = [[j for j in range(len(x)) if -half < j + 0.5 - (i + 0.5) * scale <= half] for i in range(side)]
        return np.floor(np.array([x[part].mean(axis=0) for part in parts]) + 0.5)

    for side in (int(len(image) * left), len(image)):
        for _ in range(2):
            image = means(image.swapaxes(0, 1), side)
    return image


def coded(image, rng, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def shuffled(image, rng, sigma, reach, passes):
    height, width = image.shape[:2]
    x = levels(blurred(image / 255, sigma))
    for offsets in rng.integers(-reach, reach, (passes, height * width, 2)).reshape(passes, height, width, 2):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                down, right = offsets[row, column]
                x[row, column] = x[row + down, column + right]
    return levels(blurred(x / 255, sigma))


def smeared(x, radius, sigma, degrees):
    """Grey levels, pixel by pixel."""
    height, width = x.shape[:2]
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    result = np.zeros(x.shape)
    for i, weight in enumerate(weights):
        down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        right = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        for row in range(height):
            for column in range(width):
                source = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
                result[row, column] += weight / sum(weights) * x[source]
    return np.rint(result)


def motion_blurred(image, rng, radius, sigma):
    return smeared(image, radius, sigma, rng.uniform(-45, 45))


def snowed(image, rng, mean, sigma, zoom, threshold, radius, blur, mix):
    layer = rng.normal(mean, sigma, (*image.shape[:2], 1))
    degrees = rng.uniform(-135, -45)
    layer = zoomed(layer, zoom)
    layer[layer < threshold] = 0
    layer = smeared(levels(layer), radius, blur, degrees) / 255
    x = image / 255
    grey = 0.299 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:]
    x = mix * x + (1 - mix) * np.maximum(x, 1.5 * grey + 0.5)
    return levels(x + layer + np.rot90(layer, 2))


def frosted(image, rng, of_image, of_frost, every):
    folder, size = corruptions.frost_pictures(), len(image)
    index = rng.integers(5)
    picture = np.asarray(Image.open(folder / f"frost{1 + index}.{'png' if index < 3 else 'jpg'}")).astype(float)
    # Linear resizing: the centre of each new pixel is a place in the old ones.
    rows, columns = ((np.arange(side // every) + 0.5) * every - 0.5 for side in picture.shape[:2])
    places = np.meshgrid(rows, columns, indexing="ij")
    small = np.stack([ndimage.map_coordinates(picture[..., c], places, order=1) for c in range(3)], axis=-1)
    height, width = small.shape[:2]
    small = np.pad(small, ((0, max(0, size + 1 - height)), (0, max(0, size + 1 - width)), (0, 0)), "symmetric")
    top, left = rng.integers((small.shape[0] - size, small.shape[1] - size))
    return levels((of_image * image + of_frost * small[top : top + size, left : left + size]) / 255)


def fogged(image, rng, weight, decay):
    side, wibble = len(image), 100.0
    size = next(power for power in (2, 4, 8, 16, 32, 64) if power >= side)
    land = np.zeros((size, size))
    step = size

    def place(row, column, neighbours):
        mean = sum(land[(row + i) % size, (column + j) % size] for i, j in neighbours) / 4
        land[row, column] = mean + wibble * rng.uniform(-1, 1) * wibble

    while step >= 2:
        half = step // 2
        diagonal, straight = [(-half, -half), (-half, half), (half, -half), (half, half)], [(-half, 0), (half, 0)]
        straight += [(0, -half), (0, half)]
        for first_row, first_column, neighbours in ((half, half, diagonal), (0, half, straight), (half, 0, straight)):
            for row in range(first_row, size, step):
                for column in range(first_column, size, step):
                    place(row, column, neighbours)
        step, wibble = half, wibble / decay
    land = (land - land.min()) / (land.max() - land.min())
    x = image / 255
    return levels((x + weight * land[:side, :side, None]) * x.max() / (x.max() + weight))


def edges(grey, low, high):
    """Canny, pixel by pixel."""
    padded = np.pad(grey.astype(int), 1, "edge")
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    right, down = (correlated(padded, kernel, "edge")[1:-1, 1:-1] for kernel in (sobel, sobel.T))
    norm = np.pad(np.abs(right) + np.abs(down), 1)
    weak = []
    for row, column in np.ndindex(grey.shape):
        x, y = right[row, column], down[row, column]
        angle = math.degrees(math.atan2(abs(y), abs(x)))
        step = (0, 1) if angle < 22.5 else (1, 0) if angle > 67.5 else (1, 1) if x * y >= 0 else (1, -1)
        here, before, after = (norm[row + 1 + k * step[0], column + 1 + k * step[1]] for k in (0, -1, 1))
        diagonal = all(step)
        if here > low and here > before and (here > after or (here == after and not diagonal)):
            weak.append((row, column))
    found, reached = set(), [place for place in weak if norm[place[0] + 1, place[1] + 1] > high]
    while reached:
        place = reached.pop()
        if place in weak and place not in found:
            found.add(place)
            reached += [(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return found


def shining(layer):
    drops, third = levels(layer), np.full((3, 3), 1 / 9)
    found = edges(drops, 50, 150)
    near = np.array([min([20, *(math.dist(place, edge) for edge in found)]) for place in np.ndindex(drops.shape)])
    near = levels(correlated(near.reshape(drops.shape), third, "reflect") / 255)
    lowest = np.sum(near == near.min())
    if lowest < near.size:
        table = [round(255 * (np.sum(near <= value) - lowest) / (near.size - lowest)) for value in range(256)]
        near = np.array(table)[near]
    relief = np.clip(correlated(near, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), "reflect"), 0, 255)
    shine = drops * np.rint(correlated(relief, third, "reflect"))
    return shine / shine.max() if shine.any() else shine


def spattered(image, rng, mean, sigma, blur, threshold, amount, mud):
    layer = blurred(rng.normal(mean, sigma, image.shape[:2]), blur)
    layer[layer < threshold] = 0
    x = image / 255
    if not mud:
        return levels(x + amount * shining(layer)[..., None] * np.array([175, 238, 238]) / 255)
    cover = blurred(np.where(layer > threshold, 1.0, 0.0), amount)
    cover[cover < 0.8] = 0
    return levels(x * (1 - cover[..., None]) + cover[..., None] * np.array([63, 42, 20]) / 255)


def warped(image, rng, alpha, sigma, affine):
    side = len(image)
    corners = side // 2 + side // 3 * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = corners + rng.uniform(-affine, affine, (3, 2))
    forth = np.linalg.solve(np.c_[corners, np.ones(3)], moved)
    fields = rng.uniform(-1, 1, (side, side, 2))
    down, right = (alpha * blurred(fields[..., axis], sigma, "symmetric", truncate=3) for axis in (0, 1))
    rows, columns = np.indices((side, side)).astype(float)
    places = np.linalg.solve(forth[:2].T, np.stack([rows.ravel(), columns.ravel()]) - forth[2][:, None])
    places = places.reshape(2, side, side)
    channels = []
    for channel in np.moveaxis(image / 255, -1, 0):
        moved_channel = ndimage.map_coordinates(channel, places, order=1, mode="mirror")
        channels.append(ndimage.map_coordinates(moved_channel, (rows + down, columns + right), order=1, mode="reflect"))
    return levels(np.stack(channels, axis=-1))


READINGS = {
    "gaussian_blur": softened,
    "defocus_blur": defocused,
    "glass_blur": shuffled,
    "motion_blur": motion_blurred,
    "zoom_blur": zoom_blurred,
    "snow": snowed,
    "frost": frosted,
    "fog": fogged,
    "spatter": spattered,
    "brightness": brightened,
    "contrast": contrasted,
    "saturate": saturated,
    "elastic_transform": warped,
    "pixelate": pixelated,
    "jpeg_compression": coded,
}
