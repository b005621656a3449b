"""The language of a text, told by langdetect, as the published checker does; here the same answer every time."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["detect_language"]


@functools.cache
def _detectors() -> Any:
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory
    except ImportError:
        raise ValueError("rules on languages need the package langdetect; pip install 'prosg[eval]'") from None
    factory = DetectorFactory()
    factory.seed = 0  # it draws at random, and would else answer differently from call to call
    factory.load_profile(PROFILES_DIRECTORY)
    return factory


def detect_language(text: str) -> str | None:
    """ISO 639-1 code of the language of a text, None where it has no letters to tell by.

    Raises ValueError where langdetect is not installed.
    """
    detectors = _detectors()
    from langdetect import LangDetectException

    detector = detectors.create()
    detector.append(text)
    try:
        code: str = detector.detect()
    except LangDetectException:
        return None
    return code
