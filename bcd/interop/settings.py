"""What settings of a site mean for the answers that were given under them, in words."""

from __future__ import annotations


def site_settings(profile: str, threshold: float | None) -> str:
    """What a site's settings mean for its answers; empty without any.

    Args:
        profile: sha256 of the site's profile; empty without one.
        threshold: Of the site; None for the policy's.
    """
    said = []
    if profile:
        said.append(
            f"Matched to the training images by the site's profile, sha256 {profile[:12]}: what "
            "the model's policy guarantees was measured on images that were not."
        )
    if threshold is not None:
        said.append(
            f"Called malignant from a probability of {threshold:g}, the site's threshold and not "
            "the model's: the sensitivity that its policy guarantees does not hold."
        )
    return " ".join(said)
