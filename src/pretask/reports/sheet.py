"""A contact sheet: what goes in, what is hidden, what is asked and answered, a row of panels a sample."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageDraw

from pretask.reports.panels import INK, PAPER, caption, draw, font, wrap
from pretask.task import Panel, Sheet

ROLES = {
    "input": ("goes in", "#7b8794"),
    "hidden": ("hidden", "#d9800d"),
    "asked": ("asked", "#8b4fd0"),
    "answer": ("answered", "#2f6fe0"),
    "truth": ("true", "#12946a"),
}
"""What the frame of a panel says: word and colour, by role."""

MARGIN, GAP, FRAME, PAD, LINE = 24, 10, 3, 12, 16
WIDE, WIDEST = 1120, 1680
"""Short rows stand side by side up to the first width; a longer row breaks at the second."""

QUIET, CARD = "#667080", "#f7f8fa"


class Spot(NamedTuple):
    """A panel with its picture, its caption's lines and where the picture's corner is on its card."""

    panel: Panel
    picture: Image.Image
    lines: list[str]
    x: int
    y: int


class Card(NamedTuple):
    """One sample's panels, laid out."""

    spots: list[Spot]
    width: int
    height: int


def lay_out(panels: list[Panel]) -> Card:
    """Panels from left to right, broken into lines where they would be wider than `WIDEST`."""
    pictures = [draw(panel) for panel in panels]
    width = max(picture.width for picture in pictures) if len({p.size for p in pictures}) == 1 else 0
    spots: list[Spot] = []
    x = y = PAD
    tallest = right = 0
    for panel, picture in zip(panels, pictures, strict=True):
        cell = max(width, picture.width, 96) + 2 * FRAME
        if x > PAD and x + cell + PAD > WIDEST:
            x, y, tallest = PAD, y + tallest + GAP, 0
        lines = wrap(caption(panel), font(12), cell, max_lines=4)
        spots.append(Spot(panel, picture, lines, x + FRAME, y + FRAME))
        tallest = max(tallest, picture.height + 2 * FRAME + 6 + LINE * len(lines))
        x += cell + GAP
        right = max(right, x - GAP)
    return Card(spots, right + PAD, y + tallest + PAD // 2)


def arrange(cards: list[Card]) -> tuple[list[tuple[int, int]], int, int]:
    """Corners of the cards, several side by side where they are narrow, and the space they take."""
    column = max(card.width for card in cards)
    across = max(1, min(len(cards), (WIDE + GAP) // (column + GAP)))
    corners, y = [], 0
    for start in range(0, len(cards), across):
        corners += [(i * (column + GAP), y) for i in range(len(cards[start : start + across]))]
        y += max(card.height for card in cards[start : start + across]) + GAP
    return corners, across * (column + GAP) - GAP, y - GAP


def paint(page: ImageDraw.ImageDraw, sheet: Image.Image, card: Card, left: int, top: int, row: int) -> None:
    """One card with its panels, frames and captions."""
    page.rounded_rectangle((left, top, left + card.width, top + row), 8, fill=CARD)
    for panel, picture, lines, x, y in card.spots:
        x, y = left + x, top + y
        box = (x - FRAME, y - FRAME, x + picture.width + FRAME - 1, y + picture.height + FRAME - 1)
        page.rectangle(box, fill=ROLES[panel.role][1])
        sheet.paste(picture, (x, y))
        for number, line in enumerate(lines):
            below = y + picture.height + FRAME + 5 + LINE * number
            page.text((x - FRAME, below), line, fill=INK, font=font(12))


def paint_legend(page: ImageDraw.ImageDraw, roles: list[str], top: int) -> None:
    left = MARGIN
    for role in roles:
        word, colour = ROLES[role]
        page.rounded_rectangle((left, top + 1, left + 13, top + 14), 3, outline=colour, width=FRAME)
        page.text((left + 20, top), word, fill=INK, font=font(12))
        left += 20 + int(font(12).getlength(word)) + 22


def render(sheet: Sheet, answers: bool, max_rows: int = 8) -> Image.Image:
    """Draw a sheet.

    Args:
        answers: show the panels of role `answer`; False while there is no trained network to ask.
        max_rows: samples shown; the sheet says how many were left out.

    Raises:
        UsageError: a panel's kind is unknown or its content does not fit the kind.
    """
    kept = [[panel for panel in row if answers or panel.role != "answer"] for row in sheet.rows]
    kept = [row for row in kept if row]
    cards = [lay_out(row) for row in kept[:max_rows]]
    roles = [role for role in ROLES if any(panel.role == role for row in kept for panel in row)]
    corners, inner, height = arrange(cards) if cards else ([], 480, 0)
    inner = max(inner, 480)
    note = sheet.note if cards else f"{sheet.note}\n(no samples to show)".strip()
    if len(kept) > max_rows:
        note = f"{note} (first {max_rows} of {len(kept)} samples)".strip()
    title, lines = wrap(sheet.title, font(20, bold=True), inner), wrap(note, font(13), inner) if note else []
    head = MARGIN + 27 * len(title) + 19 * len(lines) + 10 + (28 if roles else 0)

    picture = Image.new("RGB", (inner + 2 * MARGIN, head + height + MARGIN), PAPER)
    page = ImageDraw.Draw(picture)
    for number, line in enumerate(title):
        page.text((MARGIN, MARGIN + 27 * number - 4), line, fill=INK, font=font(20, bold=True))
    for number, line in enumerate(lines):
        page.text((MARGIN, MARGIN + 27 * len(title) + 19 * number), line, fill=QUIET, font=font(13))
    paint_legend(page, roles, head - 26)
    heights = {y: max(c.height for c, (_, other) in zip(cards, corners, strict=True) if other == y)
               for _, y in corners}  # fmt: skip
    for card, (x, y) in zip(cards, corners, strict=True):
        paint(page, picture, card, MARGIN + x, head + y, heights[y])
    return picture
