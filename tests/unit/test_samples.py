"""The sample catalogue: the same bytes each time, every picture described."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from services.cli.samples import samples
from services.sample_shapes import PRODUCTS
from services.samples import MAX_SAMPLES, PICTURE_SIZE, PRICES, VIEWS, sample_items, write_samples

ONE_OF_EACH = len(PRODUCTS) * len(VIEWS)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder, ONE_OF_EACH, seed=7)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_draws_the_same_bytes(catalogue: Path, tmp_path: Path) -> None:
    write_samples(tmp_path, ONE_OF_EACH, seed=7)

    assert digests(tmp_path) == digests(catalogue)


def test_another_seed_draws_other_pictures(catalogue: Path, tmp_path: Path) -> None:
    write_samples(tmp_path, 8, seed=8)

    assert not set(digests(tmp_path).values()) & set(digests(catalogue).values())


def test_no_two_pictures_are_the_same(catalogue: Path) -> None:
    pictures = [digest for name, digest in digests(catalogue).items() if name.endswith(".jpg")]

    assert len(set(pictures)) == len(pictures) == ONE_OF_EACH


def test_every_picture_is_a_jpeg_of_256_pixels_with_a_line_in_items_jsonl(catalogue: Path) -> None:
    lines = [json.loads(line) for line in (catalogue / "items.jsonl").read_text(encoding="utf-8").splitlines()]

    assert sorted(line["file"] for line in lines) == sorted(
        path.relative_to(catalogue).as_posix() for path in catalogue.rglob("*.jpg")
    )
    for line in lines:
        with Image.open(catalogue / line["file"]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (PICTURE_SIZE, PICTURE_SIZE))
        assert set(line["attributes"]) == {"price", "currency", "brand", "category", "colour", "pattern", "in_stock"}


def test_each_item_is_seen_in_four_views(catalogue: Path) -> None:
    lines = [json.loads(line) for line in (catalogue / "items.jsonl").read_text(encoding="utf-8").splitlines()]

    assert set(Counter(line["item_id"] for line in lines).values()) == {len(VIEWS)}
    assert {line["attributes"]["category"] for line in lines} == set(PRODUCTS)


def test_items_are_distinct_and_read_like_a_shop() -> None:
    items = list(sample_items(7))

    assert len({item.item_id for item in items}) == len(items) == MAX_SAMPLES // len(VIEWS)
    assert {item.title for item in items} >= {"Striped navy mug", "Red t-shirt", "Dotted mustard plant pot"}
    assert all(PRICES[item.kind][0] - 1 < item.price < PRICES[item.kind][1] for item in items)


def test_150_items_hold_every_kind_about_equally_often() -> None:
    kinds = Counter(item.kind for item in islice(sample_items(7), 150))

    assert set(kinds) == set(PRODUCTS)
    assert max(kinds.values()) - min(kinds.values()) <= 1


def test_a_product_stands_clear_of_its_background(catalogue: Path) -> None:
    for path in catalogue.rglob("*-front.jpg"):
        with Image.open(path) as picture:
            pixels = np.asarray(picture, dtype=np.int16)
        product = np.abs(pixels - pixels[2, 2]).max(axis=2) > 24
        assert 0.08 < product.mean() < 0.7, path.name
        assert not product[:3].any(), path.name


@pytest.mark.parametrize("count", [0, MAX_SAMPLES + 1])
def test_an_impossible_count_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match="count must be"):
        write_samples(tmp_path, count)


def test_the_command_draws_and_says_what_to_do_next(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(samples, [str(tmp_path / "shop"), "--count", "4"])

    assert outcome.exit_code == 0, outcome.output
    assert len(list((tmp_path / "shop").rglob("*.jpg"))) == 4
    assert "akin ingest" in outcome.output


def test_the_command_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    outcome = CliRunner().invoke(samples, [str(tmp_path / "file" / "shop"), "--count", "1"])

    assert outcome.exit_code == 1
    assert "cannot be written" in outcome.output
