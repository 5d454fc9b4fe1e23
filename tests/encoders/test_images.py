"""Every kind of image file people have is read upright and in colour, or refused by itself with a reason."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossgraft.encoders import images
from crossgraft.encoders.images import IMAGE_SUFFIXES, UnreadableImage, read_draft, read_image
from crossgraft.errors import InputError


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(height // 16, 2), max(width // 16, 2), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def corners() -> Image.Image:
    """48 x 32 pixels, a colour a quarter: every turn and mirroring gives another picture."""
    image = Image.new("RGB", (48, 32), "red")
    image.paste("lime", (24, 0, 48, 16))
    image.paste("blue", (0, 16, 24, 32))
    image.paste("black", (24, 16, 48, 32))
    return image


def pixels(source: object) -> np.ndarray:
    image = read_image(source)  # type: ignore[arg-type]
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png_with_size(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels and that holds next to none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def refusal(source: object, read: Callable = read_image) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read(source)
    return caught.value.reason


# -- kinds of pixels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_their_pixels(kind: str) -> None:
    image = smooth(20, 30)
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels(data), np.asarray(image))


def test_a_path_bytes_and_an_image_read_the_same(tmp_path: Path) -> None:
    image = smooth(20, 30)
    path = tmp_path / "photo.with.wrong.suffix"
    path.write_bytes(encoded(image, "PNG"))
    for source in (path, str(path), path.read_bytes(), image):
        assert np.array_equal(pixels(source), np.asarray(image))


def test_cmyk_jpeg_has_its_colours() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    for read in (lambda data: np.asarray(read_image(data)), lambda data: read_draft(data, 16).pixels):
        red, green, blue = read(encoded(cmyk, "JPEG", quality=95))[8, 8].astype(int)
        assert red > 240
        assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = Image.fromarray(ramp)
    assert image.mode == "I;16"
    assert np.array_equal(pixels(encoded(image, kind))[..., 0].ravel(), np.arange(256))


def test_other_wide_greys_are_scaled() -> None:
    ramp = np.linspace(0, 65535, 256).reshape(16, 16)
    assert np.array_equal(pixels(Image.fromarray(ramp.astype(np.int32)))[..., 1].ravel(), np.arange(256))
    big_endian = Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes())
    assert np.array_equal(pixels(big_endian)[..., 1].ravel(), np.arange(256))
    assert np.array_equal(pixels(Image.fromarray((ramp / 65535).astype(np.float32)))[..., 2].ravel(), np.arange(256))
    wide = Image.fromarray(np.array([[-100, 0, 155]], dtype=np.int32))  # outside 16 bits: stretched
    assert pixels(wide)[0, :, 0].tolist() == [0, 100, 255]
    assert "finite" in refusal(Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)))


def test_grey_and_one_bit_become_colour() -> None:
    assert pixels(encoded(Image.new("L", (3, 2), 77), "PNG")).tolist() == [[[77] * 3] * 3] * 2
    assert pixels(encoded(Image.new("1", (3, 2), 1), "PNG")).tolist() == [[[255] * 3] * 3] * 2
    grey_jpeg = encoded(smooth(40, 40).convert("L"), "JPEG")
    assert np.array_equal(pixels(grey_jpeg), read_draft(grey_jpeg, 40).pixels)


def test_transparency_lies_over_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    for x, colour in enumerate([(255, 0, 0, 255), (0, 0, 255, 0), (0, 0, 0, 128)]):
        rgba.putpixel((x, 0), colour)
    assert pixels(encoded(rgba, "PNG"))[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    grey_alpha = Image.new("LA", (2, 1), (0, 0))
    grey_alpha.putpixel((1, 0), (9, 255))
    assert pixels(encoded(grey_alpha, "PNG"))[0].tolist() == [[255] * 3, [9] * 3]


def test_opaque_alpha_changes_nothing() -> None:
    image = smooth(20, 30)
    assert np.array_equal(pixels(encoded(image.convert("RGBA"), "PNG")), np.asarray(image))


def test_palette_with_transparent_entry() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert pixels(encoded(palette, "PNG"))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    for transparency in (0, b"\x00\xff"):
        data = encoded(palette, "PNG", transparency=transparency)
        assert pixels(data)[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.array_equal(pixels(data), np.asarray(frames[0]))


# -- orientation ------------------------------------------------------------------------------------------------------

# What a camera stores of the upright picture, by EXIF orientation (EXIF 2.3, tag 0x0112).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.asarray(corners())
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif.tobytes() if kind == "WEBP" else exif, **({"quality": 98}))
    middles = (slice(8, None, 16), slice(12, None, 24))
    assert np.abs(pixels(data)[middles] - upright[middles]).max() < 30
    draft = read_draft(data, at_least=16)
    assert (draft.height, draft.width) == (32, 48)
    smaller = 48 // draft.pixels.shape[1]
    middles = (slice(8 // smaller, None, 16 // smaller), slice(12 // smaller, None, 24 // smaller))
    assert np.abs(draft.pixels[middles].astype(int) - upright[8::16, 12::24]).max() < 30


def test_damaged_exif_is_no_reason_to_refuse() -> None:
    image = corners()
    data = encoded(image, "JPEG", exif=b"Exif\0\0" + b"\xff" * 40, quality=98)
    assert pixels(data).shape == (32, 48, 3)
    assert read_draft(data, 100).pixels.shape == (32, 48, 3)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.jpg")
    assert "folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "regular" in refusal(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert "empty" in refusal(tmp_path / "empty.jpg")
    assert "empty" in refusal(b"")
    assert "opened" in refusal("x" * 5000)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not an image at all")
    assert "not an image" in refusal(tmp_path / "notes.jpg")
    assert "not an image" in refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # would start Ghostscript
    heic = b"\0\0\0\x18ftypheic" + b"\0" * 40
    assert "HEIC" in refusal(heic)
    (tmp_path / "phone.heic").write_bytes(heic)
    assert "convert it to JPEG" in refusal(str(tmp_path / "phone.heic"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("read", [read_image, lambda data: read_draft(data, 32)], ids=["full", "draft"])
def test_truncated_files_are_refused(kind: str, read: Callable) -> None:
    data = encoded(smooth(300, 400), kind)
    read(data)
    for part in (0.02, 0.1, 0.5, 0.9, 0.97):
        assert refusal(data[: int(part * len(data))], read)


def test_every_truncation_of_a_jpeg_is_the_same_with_and_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(smooth(64, 48), "JPEG", progressive=True)

    def outcome(cut: int) -> str:
        try:
            return str(read_draft(data[:cut], 24).pixels.tobytes())
        except UnreadableImage as error:
            return error.reason

    cuts = range(1, len(data), 7)
    fast = [outcome(cut) for cut in cuts]
    monkeypatch.setattr(images, "simplejpeg", None)
    assert fast == [outcome(cut) for cut in cuts]
    assert all("damaged" in reason for reason in fast[:-3])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_by_their_header() -> None:
    for width, height in [(60_000, 60_000), (10_000, 10_001), (100_000_001, 1)]:
        assert "megapixels" in refusal(png_with_size(width, height))
        assert "megapixels" in refusal(png_with_size(width, height), lambda data: read_draft(data, 32))
    assert "damaged" in refusal(png_with_size(1000, 1000))  # allowed, but it does not hold what it promises


def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF"):
        data = encoded(smooth(40, 50), kind)
        for _ in range(40):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            for read in (read_image, lambda source: read_draft(source, 20)):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    with contextlib.suppress(UnreadableImage):
                        read(damaged.tobytes())


def test_the_error_names_the_file_and_survives_pickling(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.png: no such file") as caught:
        read_image(tmp_path / "missing.png")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, UnreadableImage)
    assert (str(copy), copy.reason) == (str(caught.value), "no such file")
    assert copy.exit_code == 2


# -- drafts, threads, suffixes ----------------------------------------------------------------------------------------


def test_a_draft_is_smaller_but_never_too_small() -> None:
    data = encoded(smooth(400, 1000), "JPEG")
    for at_least, height in [(401, 400), (201, 400), (200, 200), (101, 200), (100, 100), (50, 50), (1, 50)]:
        draft = read_draft(data, at_least)
        assert draft.pixels.shape == (height, height * 5 // 2, 3)
        assert (draft.height, draft.width) == (400, 1000)
    assert read_draft(encoded(smooth(40, 100), "PNG"), 1).pixels.shape == (40, 100, 3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_simplejpeg_and_pillow_decode_the_same_pixels(mode: str, divisor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    for subsampling in (0, 1, 2):
        options = {"subsampling": subsampling} if mode == "RGB" else {}
        data = encoded(smooth(163, 241).convert(mode), "JPEG", **options)
        with monkeypatch.context() as patch:
            fast = read_draft(data, 163 // divisor)
            patch.setattr(images, "simplejpeg", None)
            plain = read_draft(data, 163 // divisor)
        assert fast.pixels.shape[0] == -(-163 // divisor)
        assert np.array_equal(fast.pixels, plain.pixels)


def test_a_draft_leaves_a_given_image_untouched() -> None:
    image = Image.open(io.BytesIO(encoded(smooth(400, 400), "JPEG")))
    assert read_draft(image, 50).pixels.shape == (400, 400, 3)
    assert image.size == (400, 400)


def test_threads_read_side_by_side() -> None:
    sources = [encoded(smooth(60, 80, seed), "JPEG") for seed in range(12)] + [b"no image"] * 4

    def outcome(source: bytes) -> bytes:
        try:
            return read_image(source).tobytes()
        except UnreadableImage as error:
            return error.reason.encode()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(outcome, sources)) == [outcome(source) for source in sources]


def test_suffixes_are_lower_case_and_of_formats_we_read() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif"} <= IMAGE_SUFFIXES
    assert not {".svg", ".txt", ".eps"} & IMAGE_SUFFIXES
    known = Image.registered_extensions() | {".heic": "HEIC", ".heif": "HEIC"}  # refused one by one, with what to do
    expected = (*images.FORMATS, "MPO", "HEIC")
    assert all(suffix == suffix.lower() and known[suffix] in expected for suffix in IMAGE_SUFFIXES)


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_image_that_was_turned_is_not_turned_again(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.linear_gradient("L").resize((20, 10)).convert("RGB").save(path, exif=exif)
    once = read_image(path)
    assert once.size == ((10, 20) if orientation == 6 else (20, 10))
    twice = read_image(once)
    assert twice.size == once.size
    assert twice.tobytes() == once.tobytes()
