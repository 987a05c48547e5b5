"""Recognise a picture's format by its first bytes, so that each file meets exactly one decoder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from PIL import features

from services.errors import ImageReason, ImageRejected


@dataclass(frozen=True)
class Format:
    """A format that is accepted: its name in the API, for people, and its Pillow decoder."""

    name: str
    label: str
    media_type: str
    decoder: str


JPEG = Format("jpeg", "JPEG", "image/jpeg", "JPEG")
PNG = Format("png", "PNG", "image/png", "PNG")
GIF = Format("gif", "GIF", "image/gif", "GIF")
WEBP = Format("webp", "WebP", "image/webp", "WEBP")
BMP = Format("bmp", "BMP", "image/bmp", "BMP")
TIFF = Format("tiff", "TIFF", "image/tiff", "TIFF")
AVIF = Format("avif", "AVIF", "image/avif", "AVIF")
HEIC = Format("heic", "HEIC", "image/heic", "HEIF")

_ACCEPTED: tuple[tuple[re.Pattern[bytes], Format], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JPEG),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PNG),
    (re.compile(rb"GIF8[79]a"), GIF),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WEBP),
    # "BM" alone begins many texts; the length of the second header tells them apart.
    (re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL), BMP),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), TIFF),
)

_KNOWN: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"\x00\x00\x00\x0cJXL |\xff\x0a"), "JPEG XL"),
    (re.compile(rb"II\xbc"), "JPEG XR"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"\x00\x00[\x01\x02]\x00[^\x00]\x00"), "icon"),
    (re.compile(rb"DDS "), "DDS"),
    (re.compile(rb"P[1-7]\s"), "Netpbm"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript"),
    (re.compile(rb"BPG\xfb"), "BPG"),
    (re.compile(rb"\x8aMNG"), "MNG"),
    (re.compile(rb"\x8bJNG"), "JNG"),
    (re.compile(rb"qoif"), "QOI"),
    (re.compile(rb"\x01\xda[\x00\x01][\x01\x02]"), "SGI"),
    (re.compile(rb"\xd7\xcd\xc6\x9a"), "Windows metafile"),
    (re.compile(rb".{128}DICM", re.DOTALL), "DICOM"),
    (re.compile(rb"/\* XPM"), "XPM"),
    (re.compile(rb"#define \w+_width "), "X bitmap"),
    # Not the grammar of what may stand before the element: such a pattern backtracks for ever on hostile files.
    (re.compile(rb"\s*<svg\b|\s*<[?!](?=.*<svg\b)", re.DOTALL), "SVG"),
)

_HEAD = 1024
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def recognise(data: bytes) -> Format:
    """Name the format of a picture by its signature.

    Raises:
        ImageRejected: UNSUPPORTED for a picture of a format that is not accepted, UNRECOGNISED for anything else.
    """
    head = data[:_HEAD]
    for signature, accepted in _ACCEPTED:
        if signature.match(head):
            return accepted
    brands = _brands(head)
    if brands & _AVIF_BRANDS:
        if _reads_avif():
            return AVIF
        raise _unsupported("AVIF")
    if brands & _HEIF_BRANDS:
        return HEIC
    for signature, label in _KNOWN:
        if signature.match(head):
            raise _unsupported(label)
    raise ImageRejected(ImageReason.UNRECOGNISED, "The file is not a picture of a known format.")


def _brands(head: bytes) -> set[bytes]:
    """Brands of an ISO base media file (ISO/IEC 14496-12, 4.3); empty for anything else."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[at : at + 4] for at in range(16, end, 4)}


def _unsupported(label: str) -> ImageRejected:
    return ImageRejected(ImageReason.UNSUPPORTED, f"{label} pictures are not supported.")


@cache
def _reads_avif() -> bool:
    return bool(features.check("avif"))
