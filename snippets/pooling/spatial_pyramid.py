"""Spatial pyramid pooling in NumPy."""

import numpy as np

from snippets.pooling.adaptive import adaptive_pool
from snippets.pooling.max import max_pool


def spatial_pyramid_pool(x, levels=(1, 2, 4), reduce=np.max):
    """x (C, H, W) -> one vector of C·Σl² numbers, whatever H and W are."""
    grids = [adaptive_pool(adaptive_pool(x, level, reduce, axis=-2), level, reduce, axis=-1) for level in levels]
    return np.concatenate([grid.ravel() for grid in grids])


def sppf_maps(x, k=5):
    """x (H, W): the map and its maxima over windows of k, 2k - 1 and 3k - 2, by one pooling used three times."""
    maps = [x]
    for _ in range(3):
        maps.append(max_pool(maps[-1], k, 1, k // 2))
    return np.stack(maps)


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    height=slider(4, 20, label="image height"),
    width=slider(4, 20, label="image width"),
    finest=slider(1, 6, label="bins along a side of the finest level"),
    mode=choice("max", "avg", label="of each bin"),
)
def show(height=12, width=12, finest=4, mode="max"):
    """Change height and width: bins stretch, the vector keeps its length. Set one side below the finest level: numbers repeat."""
    y, x = np.mgrid[:height, :width]
    y, x = y / height, x / width
    picture = np.exp(-((x - 0.3) ** 2 + (y - 0.35) ** 2) / 0.02) + 0.7 * np.exp(-((x - 0.75) ** 2 + (y - 0.7) ** 2) / 0.04)
    picture += 0.05 * np.random.default_rng(0).random(picture.shape)
    levels = sorted({1, max(finest // 2, 1), finest})
    reduce = np.max if mode == "max" else np.mean
    vector = spatial_pyramid_pool(picture[None], levels, reduce)
    canvas = np.full((finest, sum(levels) + len(levels) - 1), np.nan)
    columns, start, left = [""] * canvas.shape[1], 0, 0
    for level in levels:
        canvas[:level, left : left + level] = vector[start : start + level**2].reshape(level, level)
        columns[left] = f"{level}×{level}"
        start, left = start + level**2, left + level + 1
    repeats = finest > min(height, width)
    return (
        heatmap(picture, x="column", y="row", value="value", signed=False, range=(0, 1.1), caption=f"The image, {height}×{width}: two spots."),
        heatmap(canvas, rows=[""] * finest, columns=columns, x="level", y="bins", value="value", signed=False, range=(0, 1.1),
                caption=f"The {'maximum' if mode == 'max' else 'mean'} of each bin, one cell per bin, level by level. Every level covers the whole image."),
        bars({str(i + 1): v for i, v in enumerate(vector)}, x="entry of the vector", y="value", range_y=(0, 1.1),
             caption="All bins in one vector. Its length depends on the levels alone."),
        f"{' + '.join(f'{level}²' for level in levels)} = {len(vector)} numbers per channel from {height}×{width} pixels."
        + (" Some bins are the same pixel: the finest level has more bins than the image has rows or columns." if repeats else ""),
    )
