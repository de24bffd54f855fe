import asyncio
import random
import string
import subprocess
import sys
import threading
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passlib.hash import argon2
from zxcvbn import matching, zxcvbn
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from gateway.auth import hasher_queue, passwords
from gateway.auth.hasher_queue import Turn
from gateway.auth.passwords import (
    FAMOUS_PHRASES,
    MAX_LENGTH,
    MAX_WINDOWS,
    MIN_BARE_GUESSES,
    MIN_GUESSES,
    MIN_LENGTH,
    THREADS,
    WINDOW_LENGTH,
    Passwords,
    check_password,
    hash_password,
)
from gateway.errors import Overloaded

GOOD = "correct horse battery"


def turn_of(account: str = "ada", *networks: str, known: bool = False) -> Turn:
    return Turn(account, networks or ("192.0.2.1",), known)


def test_a_hash_is_argon2id_with_19_mib_two_rounds_and_one_lane() -> None:
    assert hash_password(GOOD).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_two_hashes_of_one_password_differ() -> None:
    assert hash_password(GOOD) != hash_password(GOOD)


@pytest.mark.parametrize(
    "password",
    [
        "qfjzkwpxvbny",
        "".join(random.Random(1).choices("été à Ÿ çñß", k=256)),
        "with spaces in it",
        "пять разных слов",
    ],
)
def test_a_password_has_12_to_256_characters(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 257, "nul\0in the middle", "half a pair \ud800"])
def test_a_password_of_invalid_length_or_characters_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="it must"):
        check_password(password)


KNOWN = Path(__file__).with_name("known_passwords.txt").read_text().splitlines()
"""Well-known passwords of 12 characters and more."""


def test_the_list_of_known_passwords_is_long() -> None:
    assert len(set(KNOWN)) >= 200
    assert all(MIN_LENGTH <= len(password) <= MAX_LENGTH for password in KNOWN)


@pytest.mark.parametrize("password", KNOWN)
def test_a_well_known_password_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match=r"common .* use four words or more .* or 16 random characters"):
        check_password(password)


@pytest.mark.parametrize(
    "password",
    [
        "PassWord-2026!",
        "P@ssw0rd2026",
        "passw0rd!passw0rd!",
        "zzzzzzzzzzzzzzzz",
        "michael19870521",
        "Summer2026!!!",
        "let me in please",
        "changeme-changeme",
        "gateway-gateway",
        "notification1!",
        "password" * 32,
        "trickyunusual12345",
        "4dministr4tor!",
    ],
)
def test_a_disguised_common_password_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="common"):
        check_password(password)


@pytest.mark.parametrize(
    "password", ["tricky-unusual-12345", "violet kettle ran", "9f8a7c6b5d4e", "tr0ub4dor&3-zebra"]
)
def test_a_strong_password_that_contains_a_common_part_is_accepted(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize(
    ("password", "sub"), [("ada@example.com1", "ada@example.com"), ("Ada.Lovelace.99", "ada lovelace")]
)
def test_a_password_that_is_little_more_than_the_sub_is_refused(password: str, sub: str) -> None:
    with pytest.raises(ValueError, match="own id"):
        check_password(password, sub)


def test_a_password_may_hold_a_short_sub() -> None:
    assert check_password("something of ada's", "ada")


@pytest.mark.parametrize(
    ("password", "sub"), [("tamblekov-2026!", "zquorvix.tamblekov"), ("vokelbmat2026", "zquorvix.tamblekov")]
)
def test_a_password_made_of_parts_of_the_sub_is_refused(password: str, sub: str) -> None:
    with pytest.raises(ValueError, match=r"common|own id"):
        check_password(password, sub)


def words() -> list[str]:
    """Return the 7,776 most used words of 4 to 9 letters: as a list for dice, and the worst of its kind."""
    ranked = FREQUENCY_LISTS["english_wikipedia"]
    return [word for word in ranked if 4 <= len(word) <= 9 and word.isalpha()][: 6**5]


@pytest.mark.no_cover  # It runs the same lines very often, which the tracer makes twice as slow.
def test_random_passphrases_and_passwords_are_taken() -> None:
    dice, marks = random.Random(20261129), string.ascii_letters + string.digits
    ranked = words()
    assert len(ranked) == 6**5
    for number in range(1000):
        phrase = dice.choice(" -.").join(dice.choices(ranked, k=4))
        assert check_password(phrase, f"user-{number}@example.com") == phrase
        password = "".join(dice.choices(marks, k=16))
        assert check_password(password, f"user-{number}@example.com") == password


def test_the_strength_estimate_of_a_long_password_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def estimate(text: str, _known: list[str]) -> Decimal:
        seen.append(len(text))
        return Decimal(MIN_BARE_GUESSES)

    monkeypatch.setattr(passwords, "_guesses", estimate)
    for length in (64, 256):
        seen.clear()
        with pytest.raises(ValueError, match="common"):
            check_password("ab-" * (length // 3))
        assert max(seen) == WINDOW_LENGTH
        assert len(seen) <= MAX_WINDOWS + 1


@pytest.mark.parametrize("length", [WINDOW_LENGTH, MAX_LENGTH])
def test_the_strength_estimate_never_tries_hundreds_of_spellings(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spellings: list[int] = []
    enumerate_subs = matching.enumerate_l33t_subs

    def count(table: dict[str, list[str]]) -> list[dict[str, str]]:
        found: list[dict[str, str]] = enumerate_subs(table)
        spellings.append(len(found))
        return found

    monkeypatch.setattr(matching, "enumerate_l33t_subs", count)
    with suppress(ValueError):
        check_password(("password4@({[<3691!|70$5+%2" * 10)[:length])
    assert 0 < max(spellings) <= 16


@given(
    st.text(min_size=MIN_LENGTH, max_size=80) | st.text("12/٣³-\n .", min_size=MIN_LENGTH, max_size=80),
    st.text(max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_accepted_or_refused_with_a_message(password: str, sub: str) -> None:
    try:
        assert check_password(password, sub) == normalize("NFC", password)
    except ValueError as error:
        assert str(error).startswith(("it must ", "it is a common one"))  # noqa: PT017


@pytest.mark.parametrize("password", [*FAMOUS_PHRASES, "let me in please", "p a s s w o r d 1 2 3"])
def test_passwords_that_zxcvbn_alone_rates_strong_are_refused(password: str) -> None:
    """docs/decisions/0017: where the library finds one weak, it need not be named here any more."""
    assert zxcvbn(password)["guesses"] >= MIN_GUESSES
    with pytest.raises(ValueError, match="too easy to guess"):
        check_password(password)


def test_zxcvbn_alone_fails_on_long_passwords_and_on_digits_before_a_newline() -> None:
    with pytest.raises(ValueError, match="max length of 72"):
        zxcvbn("x" * 73)
    with pytest.raises(ValueError, match="invalid literal for int"):
        zxcvbn("21121991\n")


def test_a_password_of_digits_and_line_breaks_can_be_estimated() -> None:
    password = "٦\n\x01\n٤\t٨٥٧\t٧\n\n٩٥٣٧٤ \t٢٠٠٢٦\n٢٠٢ ٣\r"  # noqa: RUF001  (digits are the point)
    assert check_password(password) == password


def test_importing_the_gateway_does_not_load_zxcvbn() -> None:
    program = "import sys, gateway.app, gateway.cli.database; print('zxcvbn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "other",
    [
        {"type": "I"},
        {"memory_cost": 8192},
        {"memory_cost": 65536},
        {"time_cost": 1},
        {"time_cost": 3},
        {"parallelism": 2},
    ],
)
async def test_a_hash_with_other_parameters_is_renewed(other: dict[str, Any]) -> None:
    parameters = {"type": "ID", "memory_cost": 19_456, "time_cost": 2, "parallelism": 1} | other
    old = argon2.using(**parameters).hash("password1234")
    with Passwords() as hasher:
        assert await hasher.verify("password1234", old, turn_of()), "the rules of today are for new passwords"
        renewed = await hasher.renew("password1234", old, turn_of())
        assert renewed is not None
        assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert await hasher.verify("password1234", renewed, turn_of())
        assert await hasher.renew("password1234", renewed, turn_of()) is None


async def test_no_more_than_two_passwords_are_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    class Slow:
        @staticmethod
        def verify(_password: str, _hashed: str) -> bool:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            # Long enough for the others to begin, if they could.
            threading.Event().wait(0.005)
            with lock:
                at_once -= 1
            return True

    with Passwords() as hasher:
        monkeypatch.setattr(passwords, "_hasher", Slow)
        crowd = [turn_of("ada", f"192.0.2.{number}") for number in range(20)]
        await asyncio.gather(*(hasher.verify(GOOD, "a hash", turn) for turn in crowd))
    assert most == 2


async def test_a_password_is_verified_against_its_own_hash_only() -> None:
    with Passwords() as hasher:
        hashed = await hasher.hash(GOOD, "ada", turn_of())
        assert await hasher.verify(GOOD, hashed, turn_of())
        assert not await hasher.verify(GOOD + ".", hashed, turn_of())
        other = await hasher.hash("another good password", "ada", turn_of())
        assert not await hasher.verify(GOOD, other, turn_of())


async def test_a_password_matches_in_composed_and_decomposed_unicode() -> None:
    composed = "un café très serré à l'aube"
    taken_apart = normalize("NFD", composed)
    assert composed != taken_apart
    with Passwords() as hasher:
        for stored, typed in ((composed, taken_apart), (taken_apart, composed)):
            hashed = await hasher.hash(stored, "ada", turn_of())
            assert await hasher.verify(typed, hashed, turn_of())
            assert not await hasher.verify(typed + ".", hashed, turn_of())


@pytest.mark.parametrize(
    "password", ["the password of nobody", "no password at all", "short", "\ud800", "\0"]
)
async def test_no_password_matches_a_missing_hash(password: str) -> None:
    with Passwords() as hasher:
        assert not await hasher.verify(password, None, turn_of())


async def test_verifying_without_a_hash_does_the_same_work_as_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified: list[str] = []

    class Spy:
        @staticmethod
        def verify(_password: str, hashed: str) -> bool:
            verified.append(hashed)
            return True

    with Passwords() as hasher:
        monkeypatch.setattr(passwords, "_hasher", Spy)
        for password, hashed in ((GOOD, None), ("short", None), ("short", "a hash")):
            assert not await hasher.verify(password, hashed, turn_of())
    assert [hashed.split("$")[3] for hashed in verified] == ["m=19456,t=2,p=1"] * 3


async def test_a_full_hasher_queue_refuses_new_callers_and_serves_waiting_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hasher_queue, "MAX_WAITING", 2)
    gate = threading.Event()
    with Passwords() as hasher:
        monkeypatch.setattr(hasher, "_verify", lambda *_: gate.wait())
        crowd = [turn_of("ada", f"192.0.2.{number}") for number in range(THREADS + 3)]
        waiting = [asyncio.create_task(hasher.verify(GOOD, None, turn)) for turn in crowd[:-1]]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await hasher.verify(GOOD, None, crowd[-1])
        gate.set()
        assert await asyncio.gather(*waiting) == [True] * (THREADS + 2)
