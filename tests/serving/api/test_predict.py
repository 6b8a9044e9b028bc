"""POST /v1/predict and /v1/explain, and what is said about the model."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from bcd.config.disclaimer import DISCLAIMER
from bcd.evaluation.decision import DecisionPolicy
from bcd.serving.errors import BusyError, StorageFullError, TimedOutError, UnavailableError
from tests.serving.making import IDENTITY, StubModel, no_smear, smear
from tests.serving.running import Running

PNG = {"Content-Type": "image/png"}


def _form(*images: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("images", (f"{i}.png", image, "image/png")) for i, image in enumerate(images)]


def test_several_images_are_answered_in_order(served: Running) -> None:
    images = [smear(0), b"no image", no_smear(), smear(1)]
    got = served.all.post("/v1/predict", files=_form(*images)).json()
    assert [a["sha256"] for a in got["images"]] == [hashlib.sha256(i).hexdigest() for i in images]
    first, unread, striped, _ = got["images"]
    assert list(first["probabilities"]) == list(IDENTITY.classes)
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert first["class"] == max(first["probabilities"], key=first["probabilities"].get)
    assert unread["error"] and unread["refer"] and unread["class"] is None
    assert unread["probabilities"] == {}
    assert striped["refer"] and striped["reasons"]
    assert got["model"]["sha256"] == IDENTITY.sha256
    assert got["disclaimer"] == DISCLAIMER


def test_a_raw_body_is_answered_like_a_form(served: Running) -> None:
    raw = served.all.post("/v1/predict", content=smear(2), headers=PNG).json()["images"][0]
    form = served.all.post("/v1/predict", files=_form(smear(2))).json()["images"][0]
    assert (raw["name"], form["name"]) == ("", "0.png")
    same = {"milliseconds": 0, "name": ""}
    assert raw | same == form | same


def test_no_image_that_can_be_answered_is_a_problem_with_the_same_list(served: Running) -> None:
    got = served.all.post("/v1/predict", files=_form(b"one", b"two"))
    assert got.status_code == 422
    assert got.headers["content-type"] == "application/problem+json"
    assert [bool(a["error"]) for a in got.json()["images"]] == [True, True]


@pytest.mark.parametrize(
    ("error", "status"), [(StorageFullError("full"), 507), (UnavailableError("gone"), 503)]
)
def test_nothing_is_answered_that_was_not_recorded(
    served: Running, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(served.services.records, "submit_answers", fail)
    got = served.all.post("/v1/predict", content=smear(), headers=PNG)
    assert got.status_code == status
    assert "probabilities" not in got.text


@pytest.mark.parametrize(
    ("error", "status"),
    [(BusyError("wait", 3), 429), (TimedOutError("late"), 504), (UnavailableError("off"), 503)],
)
def test_errors_of_the_engine_are_problems(
    served: Running, monkeypatch: pytest.MonkeyPatch, error: BusyError, status: int
) -> None:
    async def fail(*_: Any) -> None:
        await asyncio.sleep(0)
        raise error

    monkeypatch.setattr(served.services.engine, "answer", fail)
    got = served.all.post("/v1/predict", content=smear(), headers=PNG)
    assert (got.status_code, got.json()["detail"]) == (status, error.detail)
    wanted = None if error.retry_after is None else str(error.retry_after)
    assert got.headers.get("retry-after") == wanted


def test_what_is_no_image_is_refused_by_type_and_content(served: Running) -> None:
    for kind in ("text/html", "application/json", "application/x-www-form-urlencoded", ""):
        got = served.all.post("/v1/predict", content=smear(), headers={"Content-Type": kind})
        assert got.status_code == 415, kind
    assert served.all.post("/v1/predict", content=b"", headers=PNG).status_code == 400
    wrong = served.all.post("/v1/predict", files=[("other", ("a.png", smear(), "image/png"))])
    assert wrong.status_code == 400 and "images" in wrong.json()["detail"]


def test_an_explanation_is_json_or_a_picture(served: Running) -> None:
    target = IDENTITY.classes[1]
    path = f"/v1/explain?target={target}"
    got = served.all.post(path, content=smear(), headers=PNG).json()
    assert got["target"] == target and got["method"]
    picture = Image.open(io.BytesIO(base64.b64decode(got["png"])))
    png = served.all.post(path, content=smear(), headers=PNG | {"Accept": "image/png"})
    assert png.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(png.content)).size == picture.size
    assert png.headers["x-disclaimer"] == DISCLAIMER
    wrong = served.all.post("/v1/explain?target=<b>", content=smear(), headers=PNG)
    assert wrong.status_code == 422 and "<b>" not in wrong.text
    unread = served.all.post("/v1/explain", content=b"GIF89a", headers=PNG)
    assert unread.status_code == 422


def test_the_thresholds_and_guarantees_of_the_card_are_told(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = DecisionPolicy(
        confidence_threshold=0.61, guaranteed_coverage=0.94, n_units=172, malignant_threshold=0.3,
        guaranteed_sensitivity=0.98, confidence=0.9, n_malignant_units=145,
        population="val's slides",
    )  # fmt: skip
    plain = policy.to_plain() | {"disagreement_limit": None}  # as in the card of an export
    del plain["subspace"]
    facts = replace(StubModel.facts, policy=plain)
    monkeypatch.setattr(served.services.engine.model, "facts", facts)
    got = served.all.get("/v1/model")
    told = got.json()["facts"]
    assert '"image_mb":32,' in got.text
    assert "0.610" in told["referred"]
    assert "94.0%" in told["prediction sets"] and "172" in told["prediction sets"]
    assert all(one in told["malignant"] for one in ("0.3;", "98.0%", "90.0%", "145 malignant"))
    assert all("Applies to val's slides." in told[one] for one in ("prediction sets", "malignant"))
    assert told["referred"].endswith("fitted on val.")
    monkeypatch.setattr(served.services.engine.model, "facts", replace(facts, released=True))
    told = served.all.get("/v1/model").json()["facts"]
    assert told["referred"].endswith("fitted on the out-of-fold answers.")
    assert "of the out-of-fold answers" in told["malignant"]


def test_the_model_says_what_it_is(served: Running) -> None:
    got = served.all.get("/v1/model").json()
    assert got["classes"] == list(IDENTITY.classes)
    assert got["benign"] == "Benign" and got["calibrated"] is True
    assert got["model"]["card_sha256"] == IDENTITY.card_sha256
