"""Names of files: the letters of every script, and nothing that a file system or a reader stumbles over."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async._core.file_names import UNNUMBERED, file_stem, plain_stem

MARK = "5d2c81f0"

NAMES = {
    "A red fox, 2nd take_3": "a-red-fox-2nd-take-3",
    "Ein Füchslein im Schnee; naïve Å": "ein-fuchslein-im-schnee-naive-a",
    "Straße in Ærøskøbing": "straße-in-ærøskøbing",
    "一只可爱的小猫，坐在窗台上": "一只可爱的小猫-坐在窗台上",
    "猫" * 40: "猫" * 21,
    "a photo of " + "猫" * 40: "a-photo-of-" + "猫" * 18,
    "赤い狐。カフェ ｶﾌｪ": "赤い狐-カフェ-カフェ",
    "여우 한 마리": "여우-한-마리",
    "שועל אדום בשלג": "שועל-אדום-בשלג",
    "ثعلب أحمر ٣": "ثعلب-أحمر-٣",
    "Рыжая лиса, ёжик Й": "рыжая-лиса-ёжик-й",
    "Κόκκινη Ἀλεπού": "κόκκινη-ἀλεπού",
    "हिन्दी में लोमड़ी": unicodedata.normalize("NFC", "हिन्दी-में-लोमड़ी"),
    "จิ้งจอกสีแดง": "จิ้งจอกสีแดง",
    "a\u202efox\u200b \u2066cat\u2069\ufeff dog\u00ad\ufe0f \ud83d": "afox-cat-dog",
    "👩\u200d👩\u200d👧 ❤\ufe0f fox \u3164": "fox",
    "../../etc/passwd\0 C:\\con": "etc-passwd-c-con",
    "A single TRAIN, test-bed; dev2 values": "a-single-bed-values",
    "ｔｒａｉｎ of 猫": "of-猫",
    "x" * 49: "x" * 49,
    "猫" * 10 + "x " + "x" * 33: "猫" * 10 + "x-" + "x" * 33,
    "wonderful " * 4 + "testaments": "-".join(["wonderful"] * 4),
    "x" * 60: "",
    "": "",
}


@pytest.mark.parametrize(("prompt", "words"), NAMES.items())
def test_a_name_has_the_words_of_its_prompt(prompt: str, words: str) -> None:
    """Letters of any script stay, with their marks; Latin ones lose accents. What cannot be seen is in no name, nor a
    word that an ImageFolder takes for a split. The number stands in front, or, in no series, a mark behind."""
    assert file_stem(12, prompt, MARK) == "-".join(filter(None, ["000012", words]))
    if len(words.encode()) < 36:
        assert file_stem(UNNUMBERED, prompt, MARK) == "-".join(filter(None, [words, MARK]))


def test_a_name_can_be_had_in_ascii() -> None:
    """From the first of a series on; where no other is taken, the number, the mark and the plain words are left."""
    assert file_stem(0, "a fox", MARK) == "000000-a-fox"
    assert plain_stem("000012-a-赤い狐-fox-2") == "000012-a-fox-2"


@settings(max_examples=200)
@given(st.integers(-1, 10**7), st.text())
def test_any_prompt_makes_a_name(index: int, prompt: str) -> None:
    """It is short, in NFC, without a letter that any encoding of all letters lacks, and holds letters and dashes."""
    stem = file_stem(index, prompt, MARK)
    assert len(stem.encode()) <= 81
    assert len(stem) <= 65
    assert unicodedata.normalize("NFC", stem) == stem == stem.strip("-")
    categories = {unicodedata.category(character)[0] for character in stem.replace("-", "")}
    assert categories <= {"L", "M", "N"}
