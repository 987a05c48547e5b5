"""Where pictures agree, for an encoder that is not given all of them."""

from __future__ import annotations

import base64

from safetensors.torch import load, save

from services.encoders.checkpoint import Checkpoint, digest
from services.encoders.shipped import shipped
from tests.integration.conftest import Akin, picture


def test_regions_of_an_encoder_that_looks_at_the_middle_cover_the_middle(akin: Akin) -> None:
    def encoded(size: tuple[int, int]) -> str:
        return base64.b64encode(picture(1, size)).decode()

    (photo,) = [one for one in shipped() if one.manifest.name == "metric-photo"]
    weights = save(load(photo.weights_path.read_bytes()), {"fit": "crop"})
    preprocessing = photo.manifest.preprocessing.model_copy(update={"fit": "crop"})
    changes = {"name": "middle", "preprocessing": preprocessing, "weights_sha256": digest(weights)}
    akin.services.encoders.register(Checkpoint(photo.manifest.model_copy(update=changes), weights))
    akin.call("POST", "/v1/catalogs", json={"name": "wide", "encoder": f"middle@{photo.manifest.version}"})
    body = {"image": encoded((200, 100)), "item_id": "wide"}
    assert akin.call("POST", "/v1/images?catalog=wide", json=body).status_code == 202
    akin.work()

    asked = {"image": encoded((100, 400)), "explain": True}
    (hit,) = akin.call("POST", "/v1/search?catalog=wide", json=asked).json["hits"]

    assert hit["regions"]["query_box"] == {"x": 0, "y": 0.375, "width": 1, "height": 0.25}
    assert hit["regions"]["hit_box"] == {"x": 0.25, "y": 0, "width": 0.5, "height": 1}
