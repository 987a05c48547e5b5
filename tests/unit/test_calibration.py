"""What a cosine means: curves, the likeness they make of a score, and how they travel with an encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.bootstrap import installed
from services.catalog import encoders
from services.cli.encoders import register_folder
from services.config import Settings
from services.encoders import checkpoint
from services.encoders.calibration import CURVE_KINDS, Calibration, Curve, Reliability, likeness
from services.encoders.checkpoint import Checkpoint
from services.encoders.manifest import Manifest, parse_manifest
from services.encoders.shipped import shipped
from services.errors import EncoderError
from services.wiring import Services

STRICTNESS = ["unrelated", "similar", "same_item", "duplicate"]
RELIABILITY = Reliability(
    data="some.zip", method="isotonic", pairs=1000, base_rate=0.1, ece=0.01, brier=0.05, brier_skill=0.4
)
CALIBRATION = Calibration(
    duplicate=Curve(scores=(0.8, 1.0), probabilities=(0.0, 1.0)),
    similar=Curve(scores=(0.2, 0.6), probabilities=(0.1, 0.9)),
    duplicate_threshold=0.9,
    measured={"duplicate": RELIABILITY},
)

cosines = st.floats(-1, 1)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    scores = sorted(draw(st.sets(cosines, min_size=1, max_size=32)))
    shares = st.floats(0, 1)
    probabilities = sorted(draw(st.lists(shares, min_size=len(scores), max_size=len(scores))))
    return Curve(scores=tuple(scores), probabilities=tuple(probabilities))


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    some = st.none() | curves()
    return Calibration(
        duplicate=draw(some), same_item=draw(some), similar=draw(curves()), duplicate_threshold=0.9, measured={}
    )


class TestCurve:
    def test_it_is_linear_between_knots_and_flat_outside(self) -> None:
        curve = Curve(scores=(0.2, 0.4, 0.8), probabilities=(0.1, 0.5, 0.5))

        assert [curve.at(score) for score in (-1, 0.2, 0.3, 0.4, 0.6, 0.8, 1)] == pytest.approx(
            [0.1, 0.1, 0.3, 0.5, 0.5, 0.5, 0.5]
        )

    @given(curve=curves(), one=cosines, other=cosines)
    def test_it_never_falls_and_stays_between_its_ends(self, curve: Curve, one: float, other: float) -> None:
        low, high = sorted((one, other))

        assert curve.probabilities[0] <= curve.at(low) <= curve.at(high) <= curve.probabilities[-1]

    @given(curve=curves(), score=cosines)
    def test_it_is_what_interpolation_gives(self, curve: Curve, score: float) -> None:
        assert curve.at(score) == pytest.approx(float(np.interp(score, curve.scores, curve.probabilities)), abs=1e-9)

    @given(curve=curves(), probability=st.floats(0.001, 1))
    def test_the_least_score_of_a_probability_has_it(self, curve: Curve, probability: float) -> None:
        score = curve.reaches(probability)

        if score is None:
            assert curve.at(1) < probability
        elif score == -1:
            assert curve.probabilities[0] >= probability or curve.scores[0] == -1
        else:
            assert all(curve.at(knot) < probability for knot in curve.scores if knot < score)
            assert all(curve.at(knot) >= probability for knot in curve.scores if knot > score)

    @pytest.mark.parametrize(
        ("scores", "probabilities"),
        [
            ((0.1, 0.2), (0.5,)),
            ((0.2, 0.1), (0.1, 0.5)),
            ((0.1, 0.1), (0.1, 0.5)),
            ((0.1, 0.2), (0.5, 0.4)),
            ((0.1, 1.1), (0.1, 0.5)),
            ((0.1, 0.2), (0.1, 1.5)),
            ((0.1, float("nan")), (0.1, 0.5)),
            ((), ()),
            (tuple(i / 100 for i in range(33)), tuple(i / 100 for i in range(33))),
        ],
    )
    def test_what_is_no_curve_is_refused(self, scores: Any, probabilities: Any) -> None:
        with pytest.raises(ValidationError):
            Curve(scores=scores, probabilities=probabilities)


class TestLikeness:
    def test_the_strictest_kind_that_is_likely_is_told(self) -> None:
        kinds = {score: likeness(CALIBRATION, score) for score in (0.1, 0.45, 0.85, 0.95)}

        assert kinds[0.1] == ("unrelated", pytest.approx(0.9))
        assert kinds[0.45] == ("similar", pytest.approx(0.6))
        assert kinds[0.85] == ("similar", pytest.approx(0.9))
        assert kinds[0.95] == ("duplicate", pytest.approx(0.75))

    def test_a_duplicate_is_the_same_item_and_similar_though_their_curves_say_less(self) -> None:
        low = Curve(scores=(0.0,), probabilities=(0.05,))
        calibration = CALIBRATION.model_copy(update={"same_item": low, "similar": low})

        assert likeness(calibration, 0.95) == ("duplicate", pytest.approx(0.75))
        # Two in five are duplicates there, so no more than three in five are unrelated.
        assert likeness(calibration, 0.88) == ("unrelated", pytest.approx(0.6))

    def test_without_calibration_nothing_is_told(self) -> None:
        assert likeness(None, 0.9) is None

    def test_what_is_no_duplicate_is_not_called_unrelated_where_similar_was_not_measured(self) -> None:
        calibration = CALIBRATION.model_copy(update={"similar": None})

        assert likeness(calibration, 0.95) == ("duplicate", pytest.approx(0.75))
        assert likeness(calibration, 0.85) is None

    @given(calibration=calibrations(), one=cosines, other=cosines)
    def test_a_greater_score_is_never_of_a_looser_kind_nor_less_likely_of_the_same(
        self, calibration: Calibration, one: float, other: float
    ) -> None:
        low, high = (likeness(calibration, score) for score in sorted((one, other)))

        assert low is not None
        assert high is not None
        assert STRICTNESS.index(low.kind) <= STRICTNESS.index(high.kind)
        if low.kind == high.kind != "unrelated":
            assert low.probability <= high.probability
        if low.kind == high.kind == "unrelated":
            assert low.probability >= high.probability

    @given(calibration=calibrations(), score=cosines)
    def test_it_is_at_least_as_likely_as_its_own_curve_and_the_stricter_ones_say(
        self, calibration: Calibration, score: float
    ) -> None:
        found = likeness(calibration, score)

        assert found is not None
        assert 0.5 <= found.probability <= 1
        stricter = CURVE_KINDS if found.kind == "unrelated" else CURVE_KINDS[: CURVE_KINDS.index(found.kind) + 1]
        highest = max(curve.at(score) for kind in stricter if (curve := calibration.curve(kind)) is not None)
        assert found.probability == (1 - highest if found.kind == "unrelated" else highest)

    def test_it_needs_no_torch(self) -> None:
        code = "import sys, services.encoders.calibration; sys.exit('torch' in sys.modules)"

        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def bare() -> Checkpoint:
    """A shipped encoder as it was before anything was measured of its scores."""
    read = checkpoint.read(next(e for e in shipped() if e.manifest.name == "conv-ae-64").weights_path.parent)
    return Checkpoint(read.manifest.model_copy(update={"calibration": None}), read.weights)


class TestManifest:
    def test_a_calibration_survives_the_file(self) -> None:
        manifest = bare().manifest.model_copy(update={"calibration": CALIBRATION})

        assert parse_manifest(manifest.to_json()) == manifest

    def test_a_manifest_without_one_has_no_such_member_so_older_releases_read_it(self) -> None:
        manifest = bare().manifest

        assert "calibration" not in json.loads(manifest.to_json())
        assert "calibration" not in manifest.model_dump(mode="json")
        assert parse_manifest(manifest.to_json()).calibration is None

    @pytest.mark.parametrize("inside", [[], ["duplicate"], ["measured", "duplicate"]])
    def test_members_of_a_newer_release_are_refused_as_those_of_the_manifest_are(self, inside: list[str]) -> None:
        facts = json.loads(bare().manifest.model_copy(update={"calibration": CALIBRATION}).to_json())
        place = facts["calibration"]
        for member in inside:
            place = place[member]
        place["novelty"] = 1

        with pytest.raises(EncoderError, match="novelty"):
            parse_manifest(json.dumps(facts))


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path / "data"))
    with installed(Settings()) as services:
        yield services


def registered(services: Services) -> Manifest:
    with services.database.reading() as session:
        return Manifest.model_validate(encoders.by_ref(session, "tiny").manifest)


class TestRegistry:
    """An encoder that is registered gets the calibration that its manifest has gained; its weights stay."""

    def test_it_gets_one_where_it_had_none(self, services: Services) -> None:
        tiny = tiny_encoder(None)
        services.encoders.register(tiny)

        services.encoders.register(tiny_encoder(CALIBRATION))

        assert registered(services) == tiny.manifest.model_copy(update={"calibration": CALIBRATION})
        assert services.encoders.checkpoint("tiny").weights == tiny.weights

    def test_a_start_leaves_one_that_was_fitted_since(self, services: Services) -> None:
        own = CALIBRATION.model_copy(update={"duplicate_threshold": 0.95})
        services.encoders.register(tiny_encoder(own))

        services.encoders.register(tiny_encoder(CALIBRATION))
        services.encoders.register(tiny_encoder(None))

        assert registered(services).calibration == own

    def test_registering_a_folder_replaces_it(self, services: Services, tmp_path: Path) -> None:
        services.encoders.register(tiny_encoder(CALIBRATION))
        own = CALIBRATION.model_copy(update={"duplicate_threshold": 0.95})
        checkpoint.save(tmp_path / "tiny", tiny_encoder(own))

        register_folder(tmp_path / "tiny")

        assert registered(services).calibration == own

    def test_nothing_else_of_the_manifest_is_changed(self, services: Services) -> None:
        services.encoders.register(tiny_encoder(None))
        other = tiny_encoder(CALIBRATION)
        preprocessing = other.manifest.preprocessing.model_copy(update={"fit": "crop"})

        services.encoders.register(
            Checkpoint(other.manifest.model_copy(update={"preprocessing": preprocessing}), other.weights)
        )

        assert registered(services) == other.manifest


def tiny_encoder(calibration: Calibration | None) -> Checkpoint:
    """An encoder that nothing is encoded with."""
    weights = b"not looked at before something is encoded"
    update = {"name": "tiny", "weights_sha256": checkpoint.digest(weights), "calibration": calibration}
    return Checkpoint(bare().manifest.model_copy(update=update), weights)


@pytest.mark.parametrize("encoder", shipped(), ids=lambda encoder: encoder.manifest.ref)
class TestShipped:
    def test_its_scores_were_measured_on_pictures_that_had_no_part_in_the_fit(self, encoder: Any) -> None:
        calibration = encoder.manifest.calibration

        assert calibration is not None
        assert set(calibration.measured) == {"duplicate", "similar"}
        for measured in calibration.measured.values():
            assert measured.pairs >= 10_000
            assert measured.ece <= 0.05
            assert measured.brier_skill > 0

    def test_the_threshold_is_where_a_duplicate_becomes_likely(self, encoder: Any) -> None:
        calibration = encoder.manifest.calibration

        assert calibration.duplicate.at(calibration.duplicate_threshold) == pytest.approx(0.5, abs=0.01)
        assert likeness(calibration, 1.0).kind == "duplicate"
        assert likeness(calibration, 0.0).kind == "unrelated"
