"""Numbers drawn into pictures: on points, and into gaps where tiles were taken out."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

RED, GREY = (255, 0, 0), (64, 64, 64)


def draw_markers(
    image: Image.Image,
    points: Sequence[Sequence[int]],
    numbers: Sequence[str] | None = None,
    radius: int = 15,
    alpha: int = 120,
) -> Image.Image:
    """The picture with a number in a red disc on each point (row, column).

    Args:
        image: is not changed.
        points: where.
        numbers: what is written; default 1, 2, ...
        radius: of a disc, and size of a number, in pixels.
        alpha: of a disc, 0 .. 255; its rim is opaque.
    """
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    pen, face = ImageDraw.Draw(layer), font(radius)
    for place, (y, x) in enumerate(points):
        number = str(place + 1) if numbers is None else numbers[place]
        disc = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(disc, fill=(*RED, alpha), outline=(*RED, 255), width=2)
        left, top, right, bottom = face.getbbox(number)
        pen.text((x - (right - left) / 2, y - (bottom - top) / 2), number, fill="white", font=face)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans: the system's, or the one that comes with matplotlib."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        from matplotlib.font_manager import findfont

        return ImageFont.truetype(findfont("DejaVu Sans"), size)


def take_out(
    image: Image.Image, rows: int, columns: int, chosen: Sequence[int]
) -> tuple[Image.Image, list[Image.Image]]:
    """The picture with gaps, numbered from 1 on, in the place of some tiles of a grid; and these tiles (the
    official `mask_random_regions`).

    A gap is black with a white frame inside. Unlike tiles that are all shown, the grid's lines are those
    nearest to equal parts.

    Args:
        image: is not changed.
        rows: of the grid.
        columns: of the grid.
        chosen: which tiles, counted row by row from 0, in the order of the numbers.
    """
    width, height = image.size
    lefts = [round(i * width / columns) for i in range(columns + 1)]
    tops = [round(i * height / rows) for i in range(rows + 1)]
    side = min(max(round(width / columns), 1), max(round(height / rows), 1))
    frame, face = max(int(0.03 * side), 2), font(max(int(0.4 * side), 10))
    masked, taken = image.copy(), []
    pen = ImageDraw.Draw(masked)
    for number, place in enumerate(chosen, start=1):
        row, column = divmod(place, columns)
        left, top, right, bottom = lefts[column], tops[row], lefts[column + 1], tops[row + 1]
        taken.append(image.crop((left, top, right, bottom)))
        pen.rectangle((left, top, right, bottom), fill=(0, 0, 0))
        inner = (left + frame, top + frame, right - frame, bottom - frame)
        if inner[2] > inner[0] and inner[3] > inner[1]:
            pen.rectangle(inner, outline=(255, 255, 255), width=frame)
        box = pen.textbbox((0, 0), str(number), font=face)
        x = int((left + right) / 2 - (box[2] - box[0]) / 2)
        y = int((top + bottom) / 2 - (box[3] - box[1]) / 2)
        for shift in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            pen.text((x + shift[0], y + shift[1]), str(number), font=face, fill=GREY)
        pen.text((x, y), str(number), font=face, fill=(255, 255, 255))
    return masked, taken
