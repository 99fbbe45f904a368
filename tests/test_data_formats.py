"""Pictures of every format, depth, channel count and orientation, and files that are none."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from conftest import break_some, photo
from pretask.data.dataset import Skipped, name_skipped
from pretask.data.formats import Broken, open_picture
from pretask.data.pictures import Canvas, Facts, measure, value_range

SIDE = 24
RGB = photo(3, (SIDE, SIDE))
GREY16 = (np.arange(SIDE * SIDE, dtype=np.uint16) * 113).reshape(SIDE, SIDE)


def encoded(image: Image.Image, form: str, **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def tiff(array: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **how)
    return buffer.getvalue()


def png16(array: np.ndarray) -> bytes:
    """A PNG of 16 bits, written by hand: Pillow cannot write colour of this depth."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000"])
def test_lossless_formats_give_their_pixels(form):
    how = {"lossless": True} if form == "WEBP" else {"irreversible": False} if form == "JPEG2000" else {}
    array, size = Canvas(SIDE, 3).decode(encoded(Image.fromarray(RGB), form, **how))
    assert size == (SIDE, SIDE) and array.dtype == np.uint8
    np.testing.assert_array_equal(array, RGB.transpose(2, 0, 1))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_tiff_as_pillow_compresses_it(compression):
    array, _ = Canvas(SIDE, 3).decode(encoded(Image.fromarray(RGB), "TIFF", compression=compression))
    difference = np.abs(array.astype(int) - RGB.transpose(2, 0, 1))
    assert difference.max() <= (0 if compression != "jpeg" else 60)


def test_jpeg_is_what_pillow_gives():
    raw = encoded(Image.fromarray(photo(1, (SIDE, SIDE))), "JPEG", quality=95)
    array, _ = Canvas(SIDE, 3).decode(raw)
    np.testing.assert_array_equal(array, np.asarray(Image.open(io.BytesIO(raw))).transpose(2, 0, 1))


def test_a_large_jpeg_decoded_small_is_close_to_one_decoded_whole():
    raw = encoded(Image.fromarray(photo(1, (427, 640))), "JPEG", quality=95)
    array, size = Canvas(64, 3).decode(raw)
    whole = Image.open(io.BytesIO(raw)).resize((64, 64), Image.Resampling.BICUBIC)
    difference = np.abs(array.astype(int) - np.asarray(whole).transpose(2, 0, 1))
    assert size == (427, 640)
    assert difference.mean() < 2.5 and difference.max() > 0


def test_grey_and_colour_become_each_other():
    grey = encoded(Image.fromarray(RGB).convert("L"), "PNG")
    luma = np.asarray(Image.fromarray(RGB).convert("L"))
    assert measure(grey) == Facts((SIDE, SIDE), 1)
    np.testing.assert_array_equal(Canvas(SIDE, 1).decode(grey)[0], luma[None])
    np.testing.assert_array_equal(Canvas(SIDE, 3).decode(grey)[0], np.stack([luma] * 3))
    np.testing.assert_array_equal(Canvas(SIDE, 1).decode(encoded(Image.fromarray(RGB), "PNG"))[0], luma[None])
    as_array = Canvas(SIDE, 1).decode(RGB)[0]
    assert np.abs(as_array.astype(int) - luma).max() <= 1


def test_alpha_is_laid_on_white_and_four_channels_keep_it():
    alpha = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    rgba = np.dstack([RGB, alpha])
    raw = encoded(Image.fromarray(rgba), "PNG")
    share = alpha[None] / 255
    expected = RGB.transpose(2, 0, 1) * share + 255 * (1 - share)
    assert measure(raw).channels == 3
    assert np.abs(Canvas(SIDE, 3).decode(raw)[0] - expected).max() <= 1
    assert np.abs(Canvas(SIDE, 3).decode(rgba)[0] - expected).max() <= 1  # an array of four channels
    np.testing.assert_array_equal(Canvas(SIDE, 4).decode(raw)[0], rgba.transpose(2, 0, 1))


def test_palettes_cmyk_and_single_bits():
    image = Image.fromarray(RGB)
    palette = image.convert("P")
    np.testing.assert_array_equal(
        Canvas(SIDE, 3).decode(encoded(palette, "PNG"))[0],
        np.asarray(palette.convert("RGB")).transpose(2, 0, 1),
    )
    clear = image.quantize(8)
    index = int(np.asarray(clear)[0, 0])
    array, _ = Canvas(SIDE, 3).decode(encoded(clear, "PNG", transparency=index))
    assert (array[:, 0, 0] == 255).all()
    assert Canvas(SIDE, 3).decode(encoded(image.convert("CMYK"), "JPEG"))[0].shape == (3, SIDE, SIDE)
    bits = encoded(image.convert("1"), "PNG")
    assert set(np.unique(Canvas(SIDE, 1).decode(bits)[0])) == {0, 255}


def test_values_of_16_bits_keep_their_depth():
    expected = GREY16 / 65535
    for raw in (png16(GREY16[:, :, None]), tiff(GREY16), encoded(Image.fromarray(GREY16), "PNG"), GREY16):
        assert measure(raw) == Facts((SIDE, SIDE), 1, "uint16")
        array, _ = Canvas(SIDE, 1, eight_bit=False).decode(raw)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array[0], expected, atol=1e-6)
    colour = np.dstack([GREY16, GREY16[::-1], GREY16.T])
    for raw in (png16(colour), tiff(colour, photometric="rgb")):
        array, _ = Canvas(SIDE, 3, eight_bit=False).decode(raw)
        np.testing.assert_allclose(array, colour.transpose(2, 0, 1) / 65535, atol=1e-6)


def test_alpha_of_16_bits_is_laid_on_white():
    alpha = np.full((SIDE, SIDE), 65535 // 2, np.uint16)
    raw = png16(np.dstack([GREY16, alpha]))
    array, _ = Canvas(SIDE, 1, eight_bit=False).decode(raw)
    np.testing.assert_allclose(array[0], GREY16 / 65535 * 0.5 + 0.5, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 5, 13])
def test_tiff_and_npy_of_any_channels(channels):
    rng = np.random.default_rng(channels)
    bands = rng.integers(0, 65536, (channels, SIDE, SIDE), dtype=np.uint16)
    buffer = io.BytesIO()
    np.save(buffer, bands)
    planar = tiff(bands, photometric="minisblack", planarconfig="separate")
    pages = tiff(bands, photometric="minisblack")
    last = tiff(bands.transpose(1, 2, 0).copy(), photometric="minisblack", planarconfig="contig")
    for raw in (planar, pages, last, buffer.getvalue(), bands, bands.transpose(1, 2, 0)):
        assert measure(raw) == Facts((SIDE, SIDE), channels, "uint16")
        array, _ = Canvas(SIDE, channels, eight_bit=False).decode(raw)
        np.testing.assert_allclose(array, bands / 65535, atol=1e-6)


def test_of_a_stack_of_colour_pages_the_first_is_taken():
    pages = np.stack([RGB, 255 - RGB])
    array, _ = Canvas(SIDE, 3).decode(tiff(pages, photometric="rgb"))
    np.testing.assert_array_equal(array, RGB.transpose(2, 0, 1))


def test_values_of_other_types_are_scaled_by_the_range_of_the_set():
    assert value_range([Facts((1, 1), 1, "float32", 0.1, 0.9)]) == (0, 1)
    assert value_range([Facts((1, 1), 1, "float32", 0.0, 200.0)]) == (0, 255)
    assert value_range([Facts((1, 1), 1, "int16", -5, 10), Facts((1, 1), 1, "int16", -20, 3)]) == (-20, 10)
    assert value_range([Facts((1, 1), 1, "float32", 300.0, 300.0)]) == (300, 301)
    scan = np.linspace(-1000, 1000, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.int16)
    array, _ = Canvas(SIDE, 1, False, -1000, 1000).decode(scan)
    np.testing.assert_allclose(array[0], (scan + 1000) / 2000, atol=1e-6)


def test_exif_orientation_in_every_format_and_its_size():
    tall = photo(5, (40, 20))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for form in ("PNG", "JPEG", "WEBP", "TIFF"):
            how = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
            raw = encoded(Image.fromarray(tall), form, exif=exif, **how)
            image = Image.open(io.BytesIO(raw))
            expected = ImageOps.exif_transpose(image)
            array, size = Canvas(16, 3).decode(raw)
            assert size == expected.size[::-1] == measure(raw).size, (form, orientation)
            reference = np.asarray(expected.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            assert np.abs(array.astype(int) - reference).mean() < 1, (form, orientation)


def test_resampling_is_antialiased_for_arrays_as_for_files():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    for raw in (encoded(Image.fromarray(stripes), "PNG"), stripes):
        array, _ = Canvas(16, 1).decode(raw)
        assert np.abs(array[0, 2:-2, 2:-2].astype(int) - 128).max() < 12


def test_broken_files_are_told_apart(tmp_path: Path):
    for name, reason in break_some(tmp_path).items():
        with pytest.raises(Broken, match=reason):
            Canvas(32, 3).decode((tmp_path / name).read_bytes())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_whatever_is_cut_off_or_garbled_is_broken_or_read_but_never_raises_else(form):
    raw = encoded(Image.fromarray(photo(2, (64, 64))), form)
    rng = np.random.default_rng(0)
    for share in (0.02, 0.1, 0.3, 0.6, 0.9):
        with pytest.raises(Broken):
            Canvas(32, 3).decode(raw[: int(len(raw) * share)])
    for _ in range(40):
        garbled = bytearray(raw)
        for place in rng.integers(len(raw), size=20):
            garbled[place] = rng.integers(256)
        try:
            array, _ = Canvas(32, 3).decode(bytes(garbled))
            assert array.shape == (3, 32, 32)
        except Broken as error:
            assert str(error)


def test_bombs_are_refused_before_they_are_decoded():
    huge = png16(np.zeros((1, 1, 1), np.uint16))
    width = struct.pack(">II", 30_000, 5_000)  # under Pillow's own limit, over ours
    body = huge[12:16] + width + huge[24:29]
    header = huge[:12] + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(Broken, match="absurdly large"):
        open_picture(header + huge[33:])
    with pytest.raises(Broken, match="absurdly large"):
        open_picture(np.broadcast_to(np.uint8(0), (20_000, 20_000)))


def test_an_array_file_with_objects_is_never_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Broken, match="pickle"):
        measure(buffer.getvalue())


def test_channels_that_do_not_fit_are_said():
    with pytest.raises(Broken, match="5 channels where 3 are wanted"):
        Canvas(SIDE, 3).decode(np.zeros((SIDE, SIDE, 5), np.uint8))
    with pytest.raises(Broken, match="3 channels where 5 are wanted"):
        Canvas(SIDE, 5).decode(encoded(Image.fromarray(RGB), "PNG"))


def test_numbers_that_are_not_finite_are_broken():
    with pytest.raises(Broken, match="not finite"):
        open_picture(np.array([[0.0, np.nan], [1.0, 2.0]]))


def test_what_is_skipped_is_counted_and_the_first_named(caplog):
    skipped = [Skipped("a.jpg", "empty file"), Skipped("b.jpg", "no picture")]
    name_skipped("photos", [])
    name_skipped("photos", skipped[:1])
    name_skipped("talks", skipped, "recording")
    assert caplog.messages == [
        "photos: 1 file is skipped, the first a.jpg: empty file",
        "talks: 2 recordings are skipped, the first a.jpg: empty file",
    ]
