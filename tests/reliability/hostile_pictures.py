"""Pictures that claim more than they are, or cost more than they look: bombs, made by hand from small honest files."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pillow_heif
from PIL import ExifTags
from PIL import Image as Pillow

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MEBIBYTE = 1024 * 1024
_SIDE = 64
# Within the limit of 128 million pixels, so that it has to be decoded.
_ALLOWED_SIDE = 11_000

pillow_heif.register_heif_opener()


def drawn(kind: str, seed: int = 0, side: int = _SIDE) -> bytes:
    """A small picture of some colours."""
    file = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Pillow.fromarray(values).resize((side, side), Pillow.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


@functools.cache
def zeros(size: int) -> bytes:
    """A raw deflate stream (RFC 1951) of `size` zeros, a whole number of MiB, without compressing them all."""
    count, rest = divmod(size, MEBIBYTE)
    assert not rest
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush a stream stands at a byte and refers to nothing before: pieces may be repeated.
    piece = compressor.compress(bytes(MEBIBYTE)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return piece * count + b"\x03\x00"


def zlib_zeros(size: int) -> bytes:
    """The same as a zlib stream (RFC 1950), with its checksum: of n zeros that is n mod 65,521 and 1."""
    return b"\x78\xda" + zeros(size) + struct.pack(">HH", size % 65_521, 1)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data and CRC."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int, colour: int, pixels: bytes, before: bytes = b"") -> bytes:
    """A PNG of a header, some chunks, and pixels as a zlib stream."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def _rows(width: int, height: int, bits: int) -> int:
    """Bytes of PNG rows, in whole MiB: decoders ignore what is too much."""
    return -(-(height * (1 + (width * bits + 7) // 8)) // MEBIBYTE) * MEBIBYTE


def _patched(data: bytes, mark: bytes, offset: int, form: str, *values: object) -> bytes:
    """Values written at every place that lies `offset` behind a mark."""
    changed, at, found = bytearray(data), -1, False
    while (at := data.find(mark, at + 1)) >= 0:
        struct.pack_into(form, changed, at + offset, *values)
        found = True
    assert found, mark
    return bytes(changed)


def tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF (6.0) of one directory: tag to type, count and value; then bytes, from 8 on before it."""
    at = 8 + len(data)
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return (
        b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    )


def _strip(width: int, height: int, *, compression: int, length: int) -> dict[int, tuple[int, int, int]]:
    """Tags of an 8-bit grey picture in one strip that begins at byte 8."""
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: height, 279: length}
    return {tag: (4, 1, value) for tag, value in values.items()}


def oversized() -> Iterator[tuple[str, bytes]]:
    """Pictures of every format that declare far more pixels than are allowed."""
    yield (
        "png of 50,000 x 50,000 zeros",
        png(50_000, 50_000, depth=1, colour=0, pixels=zlib_zeros(_rows(50_000, 50_000, 1))),
    )
    yield "png of 2,147,483,647 squared", png(2**31 - 1, 2**31 - 1, depth=16, colour=6, pixels=zlib_zeros(MEBIBYTE))
    yield "jpeg of 65,500 squared", _patched(drawn("JPEG"), b"\xff\xc0", 5, ">HH", 65_500, 65_500)
    yield "gif with a screen of 65,535 squared", _patched(drawn("GIF"), b"GIF8", 6, "<HH", 65_535, 65_535)
    frame = _patched(drawn("GIF"), b"GIF8", 6, "<HH", 1, 1)
    yield (
        "gif with a frame larger than its screen",
        _patched(frame, struct.pack("<BHHHH", 0x2C, 0, 0, _SIDE, _SIDE), 5, "<HH", 65_535, 65_535),
    )
    yield "bmp of 200,000 squared", _patched(drawn("BMP"), b"BM", 18, "<ii", 200_000, 200_000)
    yield "bmp of 2,147,483,647 squared, upside down", _patched(drawn("BMP"), b"BM", 18, "<ii", 2**31 - 1, -(2**31) + 1)
    yield (
        "tiff with one strip of 2,500,000,000 pixels",
        tiff(_strip(50_000, 50_000, compression=1, length=2_500_000_000)),
    )
    yield "deflated tiff of 4,294,967,295 squared", tiff(_strip(2**32 - 1, 2**32 - 1, compression=8, length=2**32 - 1))


def containers() -> Iterator[tuple[str, bytes]]:
    """Declared sizes that a library checks before we can: refused as too many pixels, or as damaged."""
    still = drawn("WEBP")
    yield "webp of 16,383 squared", _patched(still, b"\x9d\x01\x2a", 3, "<HH", 16_383, 16_383)
    frame = still[12:]
    canvas = struct.pack("<I", 16_383)[:3] * 2  # one less than each side
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + frame
    yield "webp with a canvas of 16,384 squared", b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended
    moving = io.BytesIO()
    Pillow.new("RGB", (_SIDE, _SIDE)).save(
        moving, "WEBP", save_all=True, append_images=[Pillow.new("RGB", (_SIDE, _SIDE), "red")]
    )
    yield "moving webp with a canvas of 16,384 squared", _patched(moving.getvalue(), b"VP8X", 12, "6s", canvas)
    for kind in ("AVIF", "HEIF"):
        for side in (30_000, 65_536, 2**31 - 1):
            yield f"{kind.lower()} of {side:,} squared", _patched(drawn(kind), b"ispe", 8, ">II", side, side)


def costly() -> Iterator[tuple[str, bytes]]:
    """Pictures within all limits that want as much memory or time as there is."""
    side = _ALLOWED_SIDE
    for name, depth, colour, bits in (("rgb", 8, 2, 24), ("rgba", 8, 6, 32), ("16-bit rgba", 16, 6, 64)):
        yield (
            f"png of 11,000 squared, {name}",
            png(side, side, depth=depth, colour=colour, pixels=zlib_zeros(_rows(side, side, bits))),
        )
    yield (
        "png of 11,000 squared, 16-bit grey",
        png(side, side, depth=16, colour=0, pixels=zlib_zeros(_rows(side, side, 16))),
    )
    yield "tiff of 11,000 squared, 32-bit float", _float_tiff(side)
    yield "jpeg of 20,000 scans", scans(4_000, 20_000)


def crafty() -> Iterator[tuple[str, bytes]]:
    """Pictures that try to have something unpacked, counted or followed without end."""
    small = functools.partial(png, 10, 10, depth=8, colour=2)
    gigabyte, ordinary = zlib_zeros(1024 * MEBIBYTE), zlib_zeros(MEBIBYTE)
    yield "png whose pixels inflate to a gigabyte", small(pixels=gigabyte)
    for kind, head in ((b"iCCP", b"profile\0\0"), (b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")):
        chunk = png_chunk(kind, head + gigabyte)
        yield f"png with {kind.decode()} of a gigabyte", small(pixels=ordinary, before=chunk)
    texts = png_chunk(b"zTXt", b"Comment\0\0" + ordinary) * 2_000
    yield "png with 2,000 texts of a megabyte", small(pixels=ordinary, before=texts)
    strip = _strip(1_000, 1_000, compression=8, length=len(gigabyte))
    yield "tiff whose strip inflates to a gigabyte", tiff(strip, gigabyte)
    side = _ALLOWED_SIDE
    yield "tiff with a strip that claims 4 GB", tiff(_strip(side, side, compression=1, length=2**32 - 1), bytes(100))
    yield "bmp of 11,000 squared in runs", _runs(side)
    yield from _crowded()
    yield from _circular()


def _float_tiff(side: int) -> bytes:
    pixels = zlib_zeros(_rows(side, side, 32))
    tags = _strip(side, side, compression=8, length=len(pixels))
    return tiff(tags | {258: (4, 1, 32), 339: (3, 1, 3)}, pixels)


def _runs(side: int) -> bytes:
    """An RLE8 bitmap that ends at once."""
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 2, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + 2, 0, 0, 54 + 1024) + header + bytes(1024) + b"\0\1"


def scans(side: int, count: int) -> bytes:
    """A progressive JPEG (ITU-T T.81, annex G) whose every scan goes over all blocks and has a few bytes.

    Runs of 32,767 empty blocks make a scan short; the decoder visits each block all the same.
    """
    file = io.BytesIO()
    Pillow.new("L", (side, side), 128).save(file, "JPEG", progressive=True, quality=50)
    data = file.getvalue()
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    # A scan comes behind its table of codes (DHT).
    begin, end = (data.rindex(b"\xff\xc4", 0, start) for start in starts[1:3])
    return data[:-2] + data[begin:end] * count + b"\xff\xd9"


def _crowded() -> Iterator[tuple[str, bytes]]:
    gif = drawn("GIF")
    image = gif[gif.index(b"\x2c" + bytes(4)) : -1]
    yield "gif of 3,000 frames", gif[:-1] + image * 3_000 + b"\x3b"
    frames = b"".join(
        png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 1, 1, 0, 0, 1, 10, 0, 0)) for number in range(50_000)
    )
    yield "png of 50,000 frames", png(
        10, 10, depth=8, colour=2, pixels=zlib_zeros(MEBIBYTE),
        before=png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + frames,
    )  # fmt: skip
    moving = io.BytesIO()
    pictures = [Pillow.new("RGB", (_SIDE, _SIDE), (number % 256, 80, 160)) for number in range(300)]
    pictures[0].save(moving, "WEBP", save_all=True, append_images=pictures[1:])
    yield "webp of 300 frames", moving.getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", 65_535) + b"http://ns.adobe.com/xap/1.0/\0" + b"<" * (65_533 - 29)
    jpeg = drawn("JPEG")
    yield "jpeg with 300 segments of XMP", jpeg[:2] + segment * 300 + jpeg[2:]


def _circular() -> Iterator[tuple[str, bytes]]:
    strip = _strip(8, 8, compression=1, length=64)
    at = 8 + 64
    yield "tiff whose next directory is itself", tiff(strip, bytes(64), following=at)
    yield "tiff whose EXIF is itself", tiff(strip | {ExifTags.IFD.Exif: (4, 1, at)}, bytes(64))
    yield "tiff with 4,294,967,295 widths", tiff(strip | {256: (4, 2**32 - 1, 8)}, bytes(64))
    loop = tiff({ExifTags.IFD.Exif: (4, 1, 8), ExifTags.IFD.GPSInfo: (4, 1, 8), 0x0112: (3, 1, 6)}, following=8)
    for name, data in (
        ("that is itself", loop),
        ("of 4 GB", tiff({0x0112: (4, 2**32 - 1, 8), 0x010E: (2, 2**32 - 1, 8)})),
    ):
        jpeg = drawn("JPEG")
        segment = b"Exif\0\0" + data
        yield (
            f"jpeg with EXIF {name}",
            jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + jpeg[2:],
        )
    pictures = tiff({0xB001: (4, 1, 2**32 - 1), 0xB002: (7, 2**32 - 1, 8)})
    segment = b"MPF\0" + pictures
    jpeg = drawn("JPEG")
    yield (
        "jpeg with 4,294,967,295 pictures",
        (jpeg[:2] + b"\xff\xe2" + struct.pack(">H", 2 + len(segment)) + segment + jpeg[2:]),
    )
