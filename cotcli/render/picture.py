"""A picture on a terminal: half-block characters, each two pixels, one above the other.

Knows consoles and their colours. Knows nothing about what a picture shows.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

MAX_COLUMNS = 60
MAX_ROWS = 18
_UPPER_HALF = "▀"
# xterm's colours 16 to 255: a cube of six levels a channel, then greys. What terminals make of 0 to 15 is the user's.
_CUBE = (0, 95, 135, 175, 215, 255)
_FIRST = 16


def can_show(console: Console) -> bool:
    """Whether the console has half-blocks and colours enough: with sixteen, a picture would be another picture."""
    return console.encoding.startswith("utf") and console.color_system in ("256", "truecolor")


def print_picture(console: Console, picture: Image) -> None:
    """Prints an RGB picture with its proportions, at most `MAX_COLUMNS` x `MAX_ROWS` cells and the console's width."""
    from PIL.Image import Dither, Resampling
    from rich.color import Color
    from rich.segment import Segment, Segments
    from rich.style import Style

    scale = min(min(MAX_COLUMNS, console.width) / picture.width, 2 * MAX_ROWS / picture.height)
    width, rows = max(1, round(picture.width * scale)), max(1, round(picture.height * scale / 2))
    small = picture.resize((width, 2 * rows), Resampling.HAMMING)
    if console.color_system == "truecolor":
        data = small.tobytes()
        pixels = [Color.from_rgb(*data[at : at + 3]) for at in range(0, len(data), 3)]
    else:
        # Not left to rich, whose nearest of 256 colours are far: it makes a beige background pink.
        nearest = small.quantize(palette=_palette(), dither=Dither.NONE)
        pixels = [Color.from_ansi(_FIRST + index) for index in nearest.tobytes()]
    segments = []
    for top in range(0, 2 * rows * width, 2 * width):
        upper, lower = pixels[top : top + width], pixels[top + width : top + 2 * width]
        cells = (Segment(_UPPER_HALF, Style(color=a, bgcolor=b)) for a, b in zip(upper, lower, strict=True))
        segments += [*Segment.simplify(cells), Segment.line()]
    console.print(Segments(segments), end="")


def _palette() -> Image:
    from PIL import Image

    cube = itertools.product(_CUBE, repeat=3)
    greys = ((level,) * 3 for level in range(8, 248, 10))
    image = Image.new("P", (1, 1))
    image.putpalette([channel for colour in (*cube, *greys) for channel in colour])
    return image
