"""The clipboard -> a picture, by Pillow: from the system on Windows and macOS, from wl-paste or xclip elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotcli.errors import ImageError
from cotcli.printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image

CLIPBOARD = "clipboard:"  # as ImageMagick says it; a file of that name is ./clipboard:


def from_clipboard() -> Image | str:
    """The picture in the clipboard, or the path of a file that was copied in the system's file manager.

    Raises:
        ImageError: there is no picture, or no program that gets it.
        Exception: whatever Pillow makes of broken data.
    """
    from PIL import ImageGrab

    try:
        taken = ImageGrab.grabclipboard()
    except NotImplementedError:
        raise ImageError(
            "clipboard: neither wl-paste nor xclip is there to read it in this session",
            "Install wl-clipboard (Wayland) or xclip (X11), or save the picture and give its path",
        ) from None
    except ChildProcessError as error:  # no display, most often
        raise ImageError(
            f"clipboard: cannot be read ({printable(str(error))})", "Save the picture and give its path"
        ) from None
    if isinstance(taken, list) and len(taken) == 1:
        return taken[0]
    if isinstance(taken, list):
        raise ImageError(f"clipboard: holds {len(taken)} files", "Give their paths")
    if taken is None:
        raise ImageError(
            "clipboard: holds no picture", "Copy the picture itself, not its address, or save it and give its path"
        )
    return taken
