"""Searches by sentences, with an encoder that embeds pictures and text: expected is what its own library computes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor, nn
from werkzeug.serving import make_server

from services.cli import main
from services.client import AkinClient
from services.config import Settings
from services.encoders.checkpoint import Checkpoint
from services.encoders.normalisation import to_input
from services.encoders.pretrained import adopt
from services.queries import Part
from tests.integration.conftest import Akin, _akin, picture
from tests.integration.test_query_process import TINY_CLIP
from tests.servers import wait_until

open_clip = pytest.importorskip("open_clip")

PICTURES = 8
SENTENCES = ("a red shoe", "two lamps on a table", "ein grüner Hut, nicht rot")
CATALOG = "words"

Vector = NDArray[np.float32]


@dataclass
class Words:
    """A service with a catalog whose encoder embeds text, and that encoder's network as OpenCLIP runs it."""

    akin: Akin
    network: nn.Module
    checkpoint: Checkpoint

    def search(self, **body: Any) -> Any:
        response = self.akin.call("POST", f"/v1/search?catalog={CATALOG}", json=body)
        assert response.status_code == 200, response.text
        return response.json

    def of_text(self, text: str) -> Vector:
        with torch.inference_mode():
            return _unit(self.network.encode_text(open_clip.get_tokenizer("tiny-clip")([text])))

    def of_picture(self, data: bytes) -> Vector:
        preprocessing = self.checkpoint.manifest.preprocessing
        pixels = torch.from_numpy(self.akin.services.decoder.preprocess(data, preprocessing)[None])
        with torch.inference_mode():
            return _unit(self.network.encode_image(to_input(pixels, preprocessing)))

    def ranking(self, query: Vector) -> list[tuple[str, float]]:
        """Items with the cosines of their pictures and a query, best first."""
        scores = [(f"item-{seed}", float(self.of_picture(picture(seed)) @ query)) for seed in range(PICTURES)]
        return sorted(scores, key=lambda scored: -scored[1])


def _unit(codes: Tensor) -> Vector:
    (code,) = codes.float().numpy()
    unit: Vector = code / np.linalg.norm(code)
    return unit


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, redis_url: str, milvus_lite_uri: str) -> Iterator[Words]:
    """Eight pictures, embedded by a small CLIP whose random weights were adopted from a file. Tests only read it."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(5)
    network = open_clip.create_model("tiny-clip", pretrained=None).eval()
    torch.save(network.state_dict(), folder / "clip.pt")
    checkpoint = adopt("openclip:tiny-clip", folder / "clip.pt")
    settings = Settings(data_dir=folder, redis_url=redis_url, milvus_uri=milvus_lite_uri, decode_processes=1)
    for akin in _akin(settings):
        akin.services.encoders.register(checkpoint)
        created = akin.call("POST", "/v1/catalogs", json={"name": CATALOG, "encoder": checkpoint.manifest.ref})
        assert created.status_code == 201, created.text
        for seed in range(PICTURES):
            body = {"image": base64.b64encode(picture(seed)).decode(), "item_id": f"item-{seed}"}
            assert akin.call("POST", f"/v1/images?catalog={CATALOG}", json=body).status_code == 202
        akin.work()
        yield Words(akin, network, checkpoint)


@pytest.fixture(scope="module")
def address(words: Words) -> Iterator[str]:
    """Where the API answers on loopback."""
    server = make_server("127.0.0.1", 0, words.akin.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def assert_ranked(hits: Sequence[Any], expected: Sequence[tuple[str, float]]) -> None:
    assert [hit["item"]["item_id"] for hit in hits] == [item_id for item_id, _ in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_catalogs_and_encoders_say_whether_they_embed_text(words: Words) -> None:
    ref = words.checkpoint.manifest.ref
    catalogs = {one["name"]: one["live_index"] for one in words.akin.get("/v1/catalogs")["data"]}
    encoders = {one["ref"]: one["embeds_text"] for one in words.akin.get("/v1/encoders")["data"]}

    assert (catalogs[CATALOG]["encoder"], catalogs[CATALOG]["embeds_text"]) == (ref, True)
    assert catalogs["default"]["embeds_text"] is False
    assert [name for name, embeds_text in encoders.items() if embeds_text] == [ref]
    assert len(encoders) > 1


def test_a_sentence_ranks_the_pictures_as_its_vector_does(words: Words) -> None:
    expected = {text: words.ranking(words.of_text(text)) for text in SENTENCES}
    # Else any sentence would do.
    assert len({tuple(item_id for item_id, _ in ranking) for ranking in expected.values()}) == len(SENTENCES)

    for text, ranking in expected.items():
        found = words.search(query=[{"text": text}])

        assert_ranked(found["hits"], ranking)
        # What cosines of two pictures mean, those of a sentence and a picture do not.
        assert {hit["likeness"] for hit in found["hits"]} == {None}
        assert found["encoder"] == words.checkpoint.manifest.ref


def test_the_same_sentence_is_encoded_once(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "a sentence of this test alone"
    # By its own name: vectors of the sentences before may still be on their way to the cache.
    name = f"akin:cache:vector:*:text:{hashlib.sha256(sentence.encode()).hexdigest()}"
    first = words.search(query=[{"text": sentence}])["hits"]
    wait_until(lambda: any(words.akin.services.cache.scan_iter(name)), "its vector is kept")

    def unasked(*_: object) -> None:
        raise AssertionError("the query process was asked again")

    monkeypatch.setattr(type(words.akin.services.query_encoder), "encode_text", unasked)

    assert words.search(query=[{"text": sentence}])["hits"] == first


@pytest.mark.parametrize(("of_text", "of_picture"), [(1.0, 1.0), (2.0, 0.5), (-0.7, 1.0)])
def test_a_sentence_and_a_picture_are_weighed(words: Words, of_text: float, of_picture: float) -> None:
    query = of_text * words.of_text(SENTENCES[0]) + of_picture * words.of_picture(picture(100))
    sent = base64.b64encode(picture(100)).decode()

    found = words.search(query=[{"text": SENTENCES[0], "weight": of_text}, {"image": sent, "weight": of_picture}])

    assert_ranked(found["hits"], words.ranking(query / np.linalg.norm(query)))


def test_a_sentence_less_an_item_finds_other_items(words: Words) -> None:
    query = words.of_text(SENTENCES[1]) - 0.5 * words.of_picture(picture(3))
    expected = [scored for scored in words.ranking(query / np.linalg.norm(query)) if scored[0] != "item-3"]

    found = words.search(query=[{"text": SENTENCES[1]}, {"item_id": "item-3", "weight": -0.5}])

    assert_ranked(found["hits"], expected)


def test_sentences_are_searched_for_together(words: Words) -> None:
    searches = [{"query": [{"text": text}], "limit": 3} for text in SENTENCES]

    response = words.akin.call("POST", f"/v1/search/batch?catalog={CATALOG}", json={"searches": searches})

    for text, found in zip(SENTENCES, response.json["results"], strict=True):
        assert_ranked(found["hits"], words.ranking(words.of_text(text))[:3])


def test_the_command_line_searches_by_words_and_pictures(words: Words, address: str, tmp_path: Path) -> None:
    file = tmp_path / "query.jpg"
    file.write_bytes(picture(100))
    both = 0.5 * words.of_picture(picture(100)) - words.of_text(SENTENCES[2])

    def run(*arguments: str | Path) -> Any:
        options = ["--url", address, "--key", words.akin.key, "--catalog", CATALOG, "--json"]
        outcome = CliRunner().invoke(main, ["search", *options, *map(str, arguments)])
        assert outcome.exit_code == 0, outcome.output
        return json.loads(outcome.stdout)["hits"]

    by_text = run("--text", SENTENCES[2], "--limit", "4")
    by_both = run(file, "--text", SENTENCES[2], "--weight", "0.5", "--weight", "-1")

    assert_ranked(by_text, words.ranking(words.of_text(SENTENCES[2]))[:4])
    assert_ranked(by_both, words.ranking(both / np.linalg.norm(both)))


def test_the_client_searches_by_words(words: Words, address: str) -> None:
    with AkinClient(address, words.akin.key, catalog=CATALOG) as client:
        found = client.search([Part(text=SENTENCES[0])], limit=2)

    assert [hit.item.item_id for hit in found.hits] == [
        item for item, _ in words.ranking(words.of_text(SENTENCES[0]))[:2]
    ]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("image", "openclip-tiny-clip@1 has no features by place"),
        ("image_id", "openclip-tiny-clip@1 has no features by place"),
        ("text", "the query is not one picture"),
    ],
)
def test_without_a_feature_grid_an_explanation_says_why_there_are_no_regions(
    words: Words, part: str, reason: str
) -> None:
    stored = words.akin.get(f"/v1/images?catalog={CATALOG}&limit=1")["data"][0]["id"]
    subjects = {"image": base64.b64encode(picture(100)).decode(), "image_id": stored, "text": SENTENCES[0]}
    query = [{part: subjects[part]}]

    explained = words.search(query=query, explain=True)

    assert explained["hits"]
    assert {hit["regions"] for hit in explained["hits"]} == {None}
    assert explained["explain"]["no_regions"] == reason
    assert explained["explain"]["candidates"] >= len(explained["hits"])
    plain = words.search(query=query)
    assert [hit["score"] for hit in explained["hits"]] == [hit["score"] for hit in plain["hits"]]
