"""Language detection by langdetect, as in the published checker, but deterministic."""

from __future__ import annotations

import functools
from typing import Any

from prosg.utils.extras import missing_extra

__all__ = ["detect_language"]


@functools.cache
def _detector_factory() -> Any:  # langdetect has no types
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory
    except ImportError as error:
        raise missing_extra("a rule on languages", "eval", error) from None
    factory = DetectorFactory()
    factory.seed = 0  # unseeded, it may answer differently from call to call
    factory.load_profile(PROFILES_DIRECTORY)
    return factory


def detect_language(text: str) -> str | None:
    """Detects the language of a text.

    Returns:
        Its ISO 639-1 code; None for a text without letters.

    Raises:
        ValueError: Where langdetect is not installed.
    """
    factory = _detector_factory()
    from langdetect import LangDetectException

    detector = factory.create()
    detector.append(text)
    try:
        code: str = detector.detect()
    except LangDetectException:
        return None
    return code
