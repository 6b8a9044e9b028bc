"""The YAML head of a release's model card, as Hugging Face's hub reads it."""

from __future__ import annotations

from typing import Any

from bcd.evaluation.unsafe import UNSAFE_SHARES
from bcd.release.facts import ReleaseFacts

# Metrics that the hub knows by the same names.
_KNOWN = ("accuracy", "precision", "recall", "f1")
_MORE = ("balanced_accuracy", *UNSAFE_SHARES, "referred")


def card_metadata(facts: ReleaseFacts) -> dict[str, Any]:
    """Metadata of the model card; metrics are those of `metrics.json`."""
    metrics, catalog = facts.metrics, facts.images.catalog
    listed = [*_KNOWN, *(name for name in _MORE if metrics.get(name) is not None)]
    results = [
        {"type": name, "name": f"{name}, out of fold", "value": metrics[name]} for name in listed
    ]
    return {
        "library_name": "bcd",
        "pipeline_tag": "image-classification",
        "tags": ["medical", "hematology", "blood-smear", "leukemia", "pytorch"],
        "metrics": [*_KNOWN],
        "model-index": [
            {
                "name": facts.settings.name,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "type": f"sha256:{catalog.fingerprint(facts.images.indices)}",
                            "name": catalog.root.name,
                        },
                        "metrics": results,
                    }
                ],
            }
        ],
    }
