"""Texts that people will see: what may be in them."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Joiners make emoji sequences and are letters' business in Persian and the Indic scripts.
_JOINERS: Final = "\u200c\u200d"
# The flags of England, Scotland and Wales: a black flag and invisible tag characters.
_TAGGED_FLAG: Final = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f")
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The Stream-Safe limit of UAX 15; normalising longer runs takes quadratic time.
_MAX_COMBINING_RUN: Final = 30
# No text shrinks by more than this when it is composed, so longer input need not be looked at.
_MAX_COMPOSITION: Final = 4


def clean_text(value: object, field: str, max_bytes: int) -> str:
    """Return a text that people will see, in Unicode's normal form C.

    It has 1 to `max_bytes` UTF-8 bytes (0: any number), something visible in it, and no control
    or format characters but those in emoji and joined scripts: nothing that breaks a log line or
    turns its direction. Raises ValueError, whose text names `field` and quotes none of the value.
    """
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a string")
    if not value:
        raise ValueError(f"{field} is empty")
    if max_bytes and len(value) > max_bytes * _MAX_COMPOSITION:
        raise ValueError(f"{field} is longer than {max_bytes} bytes")
    run = 0
    visible = False
    for character in _TAGGED_FLAG.sub("\U0001f3f4", value):
        category = unicodedata.category(character)
        if category in _REFUSED_CATEGORIES and character not in _JOINERS:
            raise ValueError(f"{field} contains U+{ord(character):04X}; remove it")
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _MAX_COMBINING_RUN:
            raise ValueError(f"{field} has too many combining marks in a row; remove some")
        visible |= category[0] in "LNPSC" and character not in _JOINERS
    if not visible:
        raise ValueError(f"{field} has no visible character")
    text = unicodedata.normalize("NFC", value)
    if max_bytes and len(text.encode()) > max_bytes:
        raise ValueError(f"{field} is longer than {max_bytes} bytes")
    return text
