"""Sets of pictures: where they are found, how they are decoded, what is left out."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from services.datasets import load as load_module
from services.datasets.load import Dataset, load
from services.datasets.room import array_in_file
from services.datasets.source import open_source
from services.datasets.split import split
from services.errors import ConfigurationError, InvalidRequest
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.images.preprocess import Preprocessing, preprocess

LIMITS = Limits(max_bytes=1_000_000, max_pixels=1_000_000)
SPEC = Preprocessing(size=32, fit="stretch", resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
FASHION_MNIST = Path(__file__).parents[3] / "shared" / "data" / "fashion-mnist"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 pictures: two parts, each with two labels."""
    random = np.random.default_rng(0)
    for number in range(24):
        part, label = ("train", "validation")[number % 4 == 0], ("cold", "warm")[number % 2]
        path = tmp_path / "pictures" / part / label / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (36, 48, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


def zipped(folder: Path) -> Path:
    """A zip file of a folder, in another order."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*.png"), reverse=True):
            file.write(path, path.relative_to(folder).as_posix())
    return archive


def read(*specs: object, progress: Callable[[int, int], None] = lambda *_: None) -> Dataset:
    with DecodePool(1, 20, 2 * 1024**3, LIMITS) as pool:
        return load([str(spec) for spec in specs], SPEC, pool, progress=progress)


class TestSources:
    def test_a_folder_and_a_zip_file_of_it_are_the_same_pictures(self, folder: Path) -> None:
        from_folder, from_zip = read(folder), read(zipped(folder))

        assert from_folder.pixels.shape == (24, 32, 32, 3)
        assert from_folder.pixels.dtype == np.uint8
        assert np.array_equal(from_folder.pixels, from_zip.pixels)
        assert from_folder.names == from_zip.names == tuple(sorted(from_folder.names))
        assert from_folder.sha256 == from_zip.sha256

    def test_a_part_is_the_same_as_its_folder(self, folder: Path) -> None:
        whole = read(folder / "train")

        for part in (read(f"{folder}#train"), read(f"{zipped(folder)}#train"), read(f"{zipped(folder)}#train/")):
            assert part.names == whole.names
            assert part.classes == ("cold", "warm")
            assert np.array_equal(part.labels, whole.labels)
            assert part.sha256 == whole.sha256

    def test_a_part_is_not_taken_for_a_longer_name(self, folder: Path) -> None:
        (folder / "training").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "training" / "other.png")

        assert "other.png" not in read(f"{folder}#train").names

    def test_a_path_may_contain_the_sign_of_a_part(self, folder: Path) -> None:
        renamed = folder.rename(folder.with_name("shop#1"))

        assert len(read(renamed)) == 24
        assert len(read(f"{renamed}#validation")) == 6

    def test_labels_are_the_first_folders(self, folder: Path) -> None:
        dataset = read(folder / "train")

        labels = [dataset.classes[label] for label in dataset.labels]
        assert labels == [name.split("/")[0] for name in dataset.names]

    def test_pictures_without_a_folder_have_no_label(self, folder: Path) -> None:
        dataset = read(folder / "train" / "warm")

        assert dataset.classes == ()
        assert set(dataset.labels) == {-1}

    def test_labels_of_several_sources_are_merged_by_name(self, folder: Path) -> None:
        (folder / "validation" / "hot").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "validation" / "hot" / "1.png")

        dataset = read(f"{folder}#validation", f"{folder}#train")

        assert dataset.classes == ("cold", "hot", "warm")
        labels = [dataset.classes[label] for label in dataset.labels]
        assert labels == [name.split("/")[0] for name in dataset.names]
        assert labels.count("cold") == 12

    def test_hidden_files_are_passed_over(self, folder: Path) -> None:
        (folder / ".DS_Store").write_bytes(b"finder")
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "._00.png").write_bytes(b"fork")

        assert read(folder).unreadable == []

    def test_a_source_hands_out_the_bytes_of_its_files(self, folder: Path) -> None:
        with open_source(f"{zipped(folder)}#train") as source:
            for picture in source.pictures:
                content = (folder / "train" / picture.name).read_bytes()
                assert picture.content() == content
                assert picture.size == len(content)

    def test_says_what_cannot_be_opened(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("text")

        with pytest.raises(InvalidRequest, match="neither a folder nor a zip file"):
            read(tmp_path / "a.txt")
        with pytest.raises(InvalidRequest, match=r"nowhere does not exist"):
            read(tmp_path / "nowhere")
        with pytest.raises(InvalidRequest, match=r"pictures#test has no files"):
            read(f"{folder}#test")

    def test_a_damaged_zip_file_is_said_to_be_that(self, folder: Path) -> None:
        archive = zipped(folder)
        whole = archive.read_bytes()

        for damaged in (whole[: len(whole) // 2], whole.replace(b"PK\x01\x02", b"PK\x01\xff")):
            archive.write_bytes(damaged)
            with pytest.raises(InvalidRequest, match=r"pictures\.zip is a damaged zip file \(.+\)"):
                read(archive)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_what_may_not_be_read_is_said_to_be_that(self, folder: Path) -> None:
        archive = zipped(folder)
        archive.chmod(0)
        (folder / "train").chmod(0)
        try:
            for spec in (archive, folder / "train", folder / "train" / "warm"):
                with pytest.raises(InvalidRequest, match="cannot be read: Permission denied"):
                    read(spec)
            with pytest.raises(InvalidRequest, match="cannot be read: Permission denied"):
                read(folder)  # a part of it is not left out without a word
        finally:
            (folder / "train").chmod(0o755)

    @pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
    def test_names_that_are_not_utf8_are_shown_with_their_bytes(self, folder: Path) -> None:
        strange = folder / "train" / os.fsdecode(b"\xfcber")
        strange.mkdir()
        for name in (b"caf\xe9.png", "café.png".encode()):
            (strange / os.fsdecode(name)).write_bytes((folder / "train" / "warm" / "01.png").read_bytes())
        (strange / os.fsdecode(b"\xff.txt")).write_text("not a picture")

        dataset = read(folder / "train")
        part = read(f"{folder}#" + os.fsdecode(b"train/\xfcber"))

        assert dataset.classes == (r"\xfcber", "cold", "warm")
        assert dataset.names[:2] == (r"\xfcber/caf\xe9.png", "\\xfcber/café.png")
        assert [item.name for item in dataset.unreadable] == [r"\xfcber/\xff.txt"]
        assert part.names == (r"caf\xe9.png", "café.png")


class TestLoading:
    def test_pictures_are_preprocessed_as_queries_are(self, folder: Path) -> None:
        dataset = read(folder)

        for name, pixels in zip(dataset.names, dataset.pixels, strict=True):
            assert np.array_equal(pixels, preprocess((folder / name).read_bytes(), SPEC, LIMITS))

    def test_unreadable_files_are_left_out_and_listed(self, folder: Path) -> None:
        expected = read(folder)
        (folder / "train" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
        (folder / "notes.txt").write_text("not a picture")
        Image.new("1", (1001, 1000)).save(folder / "wide.png")

        dataset = read(folder)

        assert np.array_equal(dataset.pixels, expected.pixels)
        assert dataset.sha256 == expected.sha256
        assert [item.name for item in dataset.unreadable] == ["notes.txt", "train/broken.png", "wide.png"]
        assert all(item.reason for item in dataset.unreadable)

    def test_damaged_and_huge_members_of_a_zip_file_are_listed(self, folder: Path) -> None:
        good = sorted(folder.rglob("*.png"))
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            for path in good[:3]:
                file.write(path, path.name)
            file.writestr("huge.png", bytes(LIMITS.max_bytes + 1), zipfile.ZIP_DEFLATED)
        damaged = content.getvalue().replace(good[0].read_bytes(), bytes(good[0].stat().st_size))
        archive = folder.parent / "damaged.zip"
        archive.write_bytes(damaged)

        dataset = read(archive)

        assert len(dataset) == 2
        assert {item.name for item in dataset.unreadable} == {good[0].name, "huge.png"}

    def test_a_member_that_unpacks_to_more_than_it_declares_is_not_unpacked(self, folder: Path) -> None:
        bomb = bytes(64_000_000)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*.png"))[:2]:
                file.write(path, path.name)
            file.writestr("bomb.png", bomb)
        archive = folder.parent / "bomb.zip"
        # The checksum is that of what is declared, so that it alone gives nothing away.
        sizes = (zlib.crc32(bomb), len(bomb)), (zlib.crc32(bomb[:1000]), 1000)
        for before, after in zip(*sizes, strict=True):
            assert content.getvalue().count(before.to_bytes(4, "little")) >= 1
            content = io.BytesIO(content.getvalue().replace(before.to_bytes(4, "little"), after.to_bytes(4, "little")))
        archive.write_bytes(content.getvalue())

        tracemalloc.start()
        try:
            dataset = read(archive)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak < 8_000_000
        assert len(dataset) == 2
        assert [item.name for item in dataset.unreadable] == ["bomb.png"]
        assert "more than the 1,000 bytes that it declares" in dataset.unreadable[0].reason

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressions_that_cannot_be_unpacked_in_part_are_listed(self, folder: Path, method: int) -> None:
        archive = zipped(folder)
        with zipfile.ZipFile(archive, "a", method) as file:
            file.write(folder / "train" / "warm" / "01.png", "unusual.png")

        (unreadable,) = read(archive).unreadable

        assert unreadable.name == "unusual.png"
        assert "store or deflate it" in unreadable.reason

    def test_the_digest_covers_names_and_contents(self, folder: Path) -> None:
        lines = ""
        for path in sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).as_posix()):
            lines += f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"

        assert read(folder).sha256 == hashlib.sha256(lines.encode()).hexdigest()

    def test_many_pieces_and_a_memory_map_change_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = read(folder)
        monkeypatch.setattr(load_module, "_PIECE_PICTURES", 5)
        monkeypatch.setattr(load_module, "_IN_MEMORY_BYTES", 1000)
        monkeypatch.setattr(load_module, "_COPIED_TOGETHER", 2)
        seen: list[tuple[int, int]] = []

        dataset = read(folder, progress=lambda done, total: seen.append((done, total)))

        assert isinstance(dataset.pixels, np.memmap)
        assert np.array_equal(dataset.pixels, expected.pixels)
        assert seen == [(5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]
        assert np.array_equal(dataset.take([7, 3, 3, 20, 0]).pixels, expected.pixels[[7, 3, 3, 20, 0]])

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists open files")
    def test_room_on_the_disk_is_reserved(self) -> None:
        array = array_in_file((1001, 2999), np.uint8, "numbers")

        # The array keeps its file open, which has no name to ask for.
        opened = [path.stat() for path in Path("/proc/self/fd").iterdir() if path.exists()]
        (file,) = [file for file in opened if file.st_size == array.nbytes and file.st_nlink == 0]
        assert file.st_blocks * 512 >= array.nbytes

    def test_a_disk_without_room_is_named(self, folder: Path) -> None:
        dataset = read(folder)
        huge = replace(dataset, pixels=np.broadcast_to(np.uint8(0), (24, 10**8, 10**8, 3)))

        with pytest.raises(ConfigurationError, match=r"need 60,000,000,000,000,000 bytes in .* set TMPDIR"):
            huge.take([0, 1])

    def test_large_files_are_read_in_small_pieces(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = read(folder)
        monkeypatch.setattr(load_module, "_PIECE_BYTES", 1)
        seen: list[int] = []

        assert np.array_equal(read(folder, progress=lambda done, _: seen.append(done)).pixels, expected.pixels)
        assert seen == list(range(1, 25))

    def test_taking_keeps_names_and_labels_beside_their_pixels(self, folder: Path) -> None:
        dataset = read(folder / "train")

        taken = dataset.take(np.array([4, 1]))

        assert taken.names == (dataset.names[4], dataset.names[1])
        assert list(taken.labels) == [dataset.labels[4], dataset.labels[1]]
        assert taken.classes == dataset.classes
        assert np.array_equal(taken.pixels, dataset.pixels[[4, 1]])

    def test_refuses_what_has_no_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("text")

        with pytest.raises(InvalidRequest, match=r"fewer than two readable pictures \(1 unreadable\)"):
            read(tmp_path)


def write_fashion_mnist(folder: Path, packed: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A small set in the idx format; returns pixels and labels by part."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True)
    written = {}
    for part, prefix, count in (("train", "train", 30), ("test", "t10k", 20)):
        pixels = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = random.integers(0, 10, count).astype(np.uint8)
        for kind, magic, array in (("images-idx3", 0x803, pixels), ("labels-idx1", 0x801, labels)):
            data = np.array([magic, *array.shape], ">u4").tobytes() + array.tobytes()
            name = f"{prefix}-{kind}-ubyte"
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
        written[part] = pixels, labels
    return written


class TestTorchvisionSets:
    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
    def test_fashion_mnist_is_read_from_idx_files(self, tmp_path: Path, packed: bool, below: str) -> None:
        written = write_fashion_mnist(tmp_path / "set" / below, packed)
        before = sorted(tmp_path.rglob("*"))

        for part, (pixels, labels) in written.items():
            with open_source(f"fashion-mnist:{tmp_path / 'set'}#{part}") as source:
                assert len(source.pictures) == len(pixels)
                for picture in source.pictures:
                    number = int(Path(picture.name).stem)
                    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.content()))), pixels[number])
                    assert (picture.label == "Ankle boot") == (labels[number] == 9)
                    assert (picture.label == "T-shirt/top") == (labels[number] == 0)

        assert sorted(tmp_path.rglob("*")) == before

    def test_the_real_fashion_mnist(self) -> None:
        if not FASHION_MNIST.is_dir():
            pytest.skip(f"{FASHION_MNIST} is not there")

        with open_source(f"fashion-mnist:{FASHION_MNIST}#test") as source:
            labels = [picture.label for picture in source.pictures]

        assert len(set(labels)) == 10
        assert {labels.count(label) for label in labels} == {1000}

    def test_missing_files_of_fashion_mnist_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"Fashion-MNIST is not in .* put train-images-idx3-ubyte, .*\.gz"):
            read(f"fashion-mnist:{tmp_path}#train")

    def test_a_damaged_fashion_mnist_is_refused(self, tmp_path: Path) -> None:
        write_fashion_mnist(tmp_path / "set", packed=True)
        file = tmp_path / "set" / "train-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:5000])

        with pytest.raises(InvalidRequest, match="Fashion-MNIST is not in"):
            read(f"fashion-mnist:{tmp_path / 'set'}#train")

    def test_cifar10_is_read_by_torchvision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels = np.random.default_rng(2).integers(0, 256, (4, 3, 32, 32), np.uint8)
        batch = pickle.dumps({"data": pixels.reshape(4, -1), "labels": [3, 5, 3, 0]})
        names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        meta = pickle.dumps({"label_names": names})
        (tmp_path / CIFAR10.base_folder).mkdir()
        (tmp_path / CIFAR10.base_folder / "test_batch").write_bytes(batch)
        (tmp_path / CIFAR10.base_folder / "batches.meta").write_bytes(meta)
        # The set itself is 170 MB: this one is as small as the checksums are told to expect.
        checksum = {"usedforsecurity": False}
        monkeypatch.setattr(CIFAR10, "train_list", [])
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", hashlib.md5(batch, **checksum).hexdigest()]])
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta, **checksum).hexdigest()})

        dataset = read(f"cifar10:{tmp_path}#test")

        assert dataset.names == ("airplane/00003.png", "cat/00000.png", "cat/00002.png", "dog/00001.png")
        assert dataset.classes == ("airplane", "cat", "dog")
        assert np.array_equal(dataset.pixels, pixels.transpose(0, 2, 3, 1)[[3, 0, 2, 1]])

    def test_missing_files_of_cifar10_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"put cifar-10-batches-py/ or cifar-10-python\.tar\.gz"):
            read(f"cifar10:{tmp_path}#train")

    @pytest.mark.parametrize("spec", ["cifar10:somewhere", "fashion-mnist:somewhere#validation"])
    def test_a_part_is_needed(self, spec: str) -> None:
        with pytest.raises(InvalidRequest, match=r"needs a part: .*#train or .*#test"):
            read(spec)

    def test_without_torchvision_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision", None)

        with pytest.raises(ConfigurationError, match=r"install 'akin\[worker\]'"):
            read("cifar10:somewhere#train")


class TestSplit:
    def test_the_held_out_pictures_depend_on_the_seed_alone(self) -> None:
        trained_on, held_out = split(100, 0.1, seed=4)

        assert sorted([*trained_on, *held_out]) == list(range(100))
        assert len(held_out) == 10
        assert np.array_equal(held_out, split(100, 0.1, seed=4)[1])
        assert not np.array_equal(held_out, split(100, 0.1, seed=5)[1])

    def test_both_halves_of_a_split_have_a_picture(self) -> None:
        assert [len(half) for half in split(2, 0.01, seed=0)] == [1, 1]
        assert [len(half) for half in split(2, 0.99, seed=0)] == [1, 1]
