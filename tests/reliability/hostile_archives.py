"""Archives that lie, about names, sizes, places and what they unpack to; each with what is to become of it."""

from __future__ import annotations

import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.reliability.hostile_pictures import MEBIBYTE, drawn, zeros

GIBIBYTE = 1024 * MEBIBYTE
EXBIBYTE = 1024**6
ZIP, TAR, GZIP = "application/zip", "application/x-tar", "application/gzip"
_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s2B5H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_NOT_HERE = 0xFFFFFFFF
_UTF8 = 0x800
_ZIP64 = 1


@dataclass(frozen=True)
class Archive:
    """An archive and the outcome of its import: entries indexed, entries failed by code, and the job's own error."""

    name: str
    media_type: str
    data: bytes
    indexed: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Member:
    """What a zip file says of one of its files; `header` in place of where it really lies."""

    name: bytes
    packed: bytes
    size: int
    crc: int
    method: int = zipfile.ZIP_DEFLATED
    flags: int = 0
    header: int | None = None

    @classmethod
    def of(cls, name: bytes, data: bytes, flags: int = 0) -> Member:
        """A stored file that tells the truth."""
        return cls(name, data, len(data), zlib.crc32(data), zipfile.ZIP_STORED, flags)

    def local(self, packed: int | None = None) -> bytes:
        """The header before its bytes."""
        sizes = [min(size, _NOT_HERE) for size in (len(self.packed) if packed is None else packed, self.size)]
        return (
            _LOCAL.pack(b"PK\3\4", 45, self.flags, self.method, 0, 0, self.crc, *sizes, len(self.name), 0) + self.name
        )

    def entry(self, at: int, packed: int | None = None) -> bytes:
        """The entry of the directory; what does not fit into 32 bits is in its extra field (APPNOTE 4.5.3)."""
        values = [self.size, len(self.packed) if packed is None else packed, at if self.header is None else self.header]
        wide = b"".join(struct.pack("<Q", value) for value in values if value >= _NOT_HERE)
        extra = struct.pack("<2H", _ZIP64, len(wide)) + wide if wide else b""
        size, length, offset = (min(value, _NOT_HERE) for value in values)
        fixed = (b"PK\1\2", 45, 0, 45, self.flags, self.method, 0, 0, self.crc, length, size)
        return _ENTRY.pack(*fixed, len(self.name), len(extra), 0, 0, 0, 0, offset) + self.name + extra


def zipped(members: Sequence[Member]) -> bytes:
    """A zip file of members as they say they are."""
    body, directory = b"", b""
    for member in members:
        directory += member.entry(len(body))
        body += member.local() + member.packed
    return body + _closed(directory, len(members), len(body))


def _closed(directory: bytes, count: int, at: int) -> bytes:
    return directory + _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), at, 0)


def overlapping(count: int, size: int) -> bytes:
    """A zip file whose members share one run of zeros, each quoting the headers of those after it.

    Every member is honest, with its true size and checksum: a stored block of deflate holds the next header, behind
    which that member's own stream goes on (David Fifield, "A better zip bomb", 2019).
    """
    run = bytes(size)
    members, tail, quoted = [Member(b"%d.png" % (count - 1), b"", size, zlib.crc32(run))], zeros(size), b""
    packed = [len(tail)]
    for number in range(count - 2, -1, -1):
        header = members[0].local(packed[0])
        quoted = header + quoted
        tail = b"\0" + struct.pack("<2H", len(header), ~len(header) & 0xFFFF) + header + tail
        members.insert(0, Member(b"%d.png" % number, b"", size + len(quoted), zlib.crc32(run, zlib.crc32(quoted))))
        packed.insert(0, len(tail))
    body = members[0].local(packed[0]) + tail
    directory, end = b"", len(body)
    for member, length in zip(members, packed, strict=True):
        directory += member.entry(end - length - len(member.local(length)), length)
    return body + _closed(directory, count, len(body))


def zips() -> Iterator[Archive]:
    """Zip files."""
    good = Member.of(b"good.jpg", drawn("JPEG", 100))
    yield Archive(
        "a file of 10 GB in 10 MB", ZIP, zipped([_zeros(10 * GIBIBYTE), good]), 1, {"image_too_many_bytes": 1}
    )
    lie = _zeros(10 * GIBIBYTE, claimed=MEBIBYTE)
    yield Archive("a file of 10 GB that says it has one MB", ZIP, zipped([lie, good]), 1, {"image_broken": 1})
    yield Archive("overlapping files of 1.6 GB", ZIP, overlapping(200, 8 * MEBIBYTE), error="archive_bomb")
    yield Archive("overlapping files of 160 MB", ZIP, overlapping(20, 8 * MEBIBYTE), failed={"image_unrecognised": 20})
    claims = [("4gb", 2**32 - 2), ("zip64", 2**32), ("8eb", 8 * EXBIBYTE - 1), ("16eb", 16 * EXBIBYTE - 1)]
    members = [Member(f"{name}.jpg".encode(), b"x", size, 0) for name, size in claims]
    yield Archive("sizes of 4 GB to 16 EB", ZIP, zipped([*members, good]), 1, {"image_too_many_bytes": 4})
    far = [
        Member(b"%d.jpg" % at, b"x", 1, 0, 0, header=at) for at in (2**31, 2**32, 8 * EXBIBYTE - 1, 16 * EXBIBYTE - 1)
    ]
    yield Archive("places beyond its end", ZIP, zipped([*far, good]), 1, {"image_broken": 4})
    inner = zipped([good])
    for _ in range(5):
        inner = zipped([Member.of(b"inner.zip", inner), Member.of(b"inner.jpg", inner)])
    yield Archive("archives in archives", ZIP, inner, failed={"image_unrecognised": 1})
    names = [
        *(b"../../x.jpg", b"C:\\x.jpg", b"/etc/x.jpg", b"..\\..\\y.jpg", b"\\\\server\\share\\z.jpg"),
        *(
            b"nul\0in.jpg",
            b"line\nfeed\r\x1b[2J.jpg",
            b"n" * 4096 + b".jpg",
            b"../" * 1000 + b"far.jpg",
            b"<script>.jpg",
        ),
    ]
    members = [Member.of(name, drawn("JPEG", 200 + at)) for at, name in enumerate(names)]
    members += [Member.of(b"\xff\xfe.jpg", drawn("JPEG", 230), _UTF8), Member.of(b"..", b"x"), Member.of(b"", b"x")]
    yield Archive("names that leave", ZIP, zipped(members), len(names) + 1)
    whole = zipped([good, Member.of(b"other.jpg", drawn("JPEG", 101))])
    yield Archive("cut off", ZIP, whole[:-30], error="archive_unreadable")
    yield Archive(
        "spliced of two", ZIP, whole[: len(whole) // 2] + zipped([lie, good])[-80:], error="archive_unreadable"
    )
    yield Archive(
        "nothing but an end", ZIP, _END.pack(b"PK\5\6", 0, 0, 9, 9, 0xFFFF, 0xFFFF, 0), error="archive_unreadable"
    )


def within_limits(count: int) -> Archive:
    """As much as may be unpacked of one archive: up to 32 files that are nearly as large as a picture may be."""
    members = [_zeros(31 * MEBIBYTE, name=b"%d.jpg" % number) for number in range(count)]
    return Archive("as much as is allowed", ZIP, zipped(members), failed={"image_unrecognised": count})


def _zeros(size: int, *, claimed: int | None = None, name: bytes = b"zeros.jpg") -> Member:
    # The checksum matters only where all of it may be unpacked.
    crc = zlib.crc32(bytes(size)) if size < GIBIBYTE else 0
    return Member(name, zeros(size), size if claimed is None else claimed, crc)


def _tar_header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def _tar_file(name: str, data: bytes) -> bytes:
    return _tar_header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _pax(record: bytes) -> bytes:
    """A record that belongs to the next header."""
    return _tar_header("pax", len(record), tarfile.XHDTYPE) + record.ljust(tarfile.BLOCKSIZE, b"\0")


def tars() -> Iterator[Archive]:
    """Tar files, plain and gzipped."""
    good, end = _tar_file("good.jpg", drawn("JPEG", 100)), bytes(2 * tarfile.BLOCKSIZE)
    special = b"".join(
        _tar_header(f"{number}.jpg", 0, kind, link)
        for number, (kind, link) in enumerate(
            [
                *(
                    (tarfile.SYMTYPE, "/etc/passwd"),
                    (tarfile.SYMTYPE, "../../../../etc/shadow"),
                    (tarfile.LNKTYPE, "good.jpg"),
                ),
                *((tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, ""), (tarfile.FIFOTYPE, "")),
            ]
        )
    )
    yield Archive("links and devices", TAR, special + good + end, 1, {"entry_not_a_file": 6})
    sparse = _tar_header("sparse.jpg", 0, tarfile.GNUTYPE_SPARSE)
    yield Archive("a sparse file", TAR, sparse + good + end, 1, {"entry_unsupported": 1})
    through = _tar_header("out", 0, tarfile.SYMTYPE, "/tmp") + _tar_file("out/through.jpg", drawn("JPEG", 300))
    yield Archive("a file behind a link", TAR, through + end, 1, {"entry_not_a_file": 1})
    names = ["../../x.jpg", "/etc/x.jpg", "C:\\x.jpg", "a/" * 500 + "deep.jpg", "n" * 4096 + ".jpg", "line\nfeed.jpg"]
    files = b"".join(_tar_file(name, drawn("JPEG", 310 + at)) for at, name in enumerate(names))
    yield Archive("names that leave", TAR, files + end, len(names))
    for name, size in (("4 GB", 2**32), ("8 EB", 8 * EXBIBYTE - 1)):
        lie = good + _tar_header("large.jpg", size) + good
        yield Archive(f"a size of {name}", TAR, lie, 1, {"image_too_many_bytes": 1}, "archive_unreadable")
    lie = good + _pax(b"29 size=18446744073709551615\n") + _tar_header("large.jpg") + good
    yield Archive("a size of 16 EB in pax", TAR, lie, 1, {"image_too_many_bytes": 1}, "archive_unreadable")
    lie = good + _tar_header("././@LongLink", 2**32, tarfile.GNUTYPE_LONGNAME)
    yield Archive("a name of 4 GB", TAR, lie, 1, error="archive_unreadable")
    yield Archive("cut off", TAR, good + good[:-600], 1, error="archive_unreadable")
    yield Archive("spliced of two", TAR, good + good[700:], 1, error="archive_unreadable")
    start = _flushed(good + _tar_header("zeros.jpg", 10 * GIBIBYTE))
    large = {"image_too_many_bytes": 1}
    yield Archive("10 GB in 10 MB", GZIP, start + zeros(10 * GIBIBYTE), 1, large, "archive_bomb")
    yield Archive("10 GB of nothing", GZIP, _flushed(end) + zeros(10 * GIBIBYTE))
    whole = gzip.compress(good + end)
    yield Archive("gzipped twice", GZIP, gzip.compress(whole), error="archive_unreadable")
    yield Archive("gzipped and cut off", GZIP, whole[:200], error="archive_unreadable")
    yield Archive("gzipped and spliced", GZIP, whole[:15] + whole[40:], error="archive_unreadable")


def _flushed(data: bytes) -> bytes:
    """The beginning of a gzip file, up to a byte at which its stream may go on."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)
