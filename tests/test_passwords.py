import asyncio
import secrets
import threading
from typing import Any

import pytest
from passlib.hash import argon2

from gateway import passwords
from gateway.errors import Overloaded
from gateway.passwords import Passwords, check_password, hash_password

GOOD = "correct horse battery"


def test_a_hash_is_argon2id_with_19_mib_two_rounds_and_one_lane() -> None:
    assert hash_password(GOOD).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_two_hashes_of_one_password_differ() -> None:
    assert hash_password(GOOD) != hash_password(GOOD)


@pytest.mark.parametrize(
    "password", ["qfjzkwpxvbny", "été à Ÿ " * 32, "with spaces in it", "пять разных слов"]
)
def test_12_to_256_characters_are_a_password(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 257, "nul\0in the middle", "half a pair \ud800"])
def test_anything_else_is_none(password: str) -> None:
    with pytest.raises(ValueError, match="it must"):
        check_password(password)


@pytest.mark.parametrize(
    "password",
    [
        "password1234",
        "PassWord-2026!",
        "P@ssw0rd2026",
        "passw0rd!passw0rd!",
        "passwordpassword",
        "qwertyuiop12",
        "1q2w3e4r5t6y",
        "1qaz2wsx3edc",
        "123456789012",
        "abc123456789",
        "121212121212",
        "zzzzzzzzzzzzzzzz",
        "michael19870521",
        "Summer2026!!!",
        "iloveyou12345",
        "let me in please",
        "correct horse battery staple",
        "changeme-changeme",
        "administrator1",
    ],
)
def test_a_common_password_is_refused_however_it_is_dressed_up(password: str) -> None:
    with pytest.raises(ValueError, match="common"):
        check_password(password)


@pytest.mark.parametrize(
    "password", ["trickyunusual12345", "violet kettle ran", "9f8a7c6b5d4e", "tr0ub4dor&3-zebra"]
)
def test_a_password_that_only_holds_something_common_is_taken(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize(
    ("password", "sub"), [("ada@example.com1", "ada@example.com"), ("Ada.Lovelace.99", "ada lovelace")]
)
def test_a_password_that_is_little_more_than_the_sub_is_refused(password: str, sub: str) -> None:
    with pytest.raises(ValueError, match="own id"):
        check_password(password, sub)


def test_a_password_may_hold_a_short_sub() -> None:
    assert check_password("something of ada's", "ada")


def test_random_passwords_are_not_common() -> None:
    for _ in range(2000):
        assert check_password(secrets.token_urlsafe(12))


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
        assert await hasher.verify("password1234", old), "the rules of today are for new passwords"
        renewed = await hasher.renew("password1234", old)
        assert renewed is not None
        assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert await hasher.verify("password1234", renewed)
        assert await hasher.renew("password1234", renewed) is None


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
        await asyncio.gather(*(hasher.verify(GOOD, "a hash") for _ in range(20)))
    assert most == 2


async def test_a_password_is_verified_against_its_own_hash_only() -> None:
    with Passwords() as hasher:
        hashed = await hasher.hash(GOOD, "ada")
        assert await hasher.verify(GOOD, hashed)
        assert not await hasher.verify(GOOD + ".", hashed)
        assert not await hasher.verify(GOOD, await hasher.hash("another good password", "ada"))


@pytest.mark.parametrize(
    "password", ["the password of nobody", "no password at all", "short", "\ud800", "\0"]
)
async def test_nobody_has_a_password(password: str) -> None:
    with Passwords() as hasher:
        assert not await hasher.verify(password, None)


async def test_a_user_without_a_hash_is_verified_as_a_user_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []

    class Spy:
        @staticmethod
        def verify(_password: str, hashed: str) -> bool:
            verified.append(hashed)
            return True

    with Passwords() as hasher:
        monkeypatch.setattr(passwords, "_hasher", Spy)
        for password, hashed in ((GOOD, None), ("short", None), ("short", "a hash")):
            assert not await hasher.verify(password, hashed)
    assert [hashed.split("$")[3] for hashed in verified] == ["m=19456,t=2,p=1"] * 3


async def test_a_crowd_is_refused_and_those_before_it_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAITING", 2)
    gate = threading.Event()
    with Passwords() as hasher:
        monkeypatch.setattr(hasher, "_verify", lambda *_: gate.wait())
        waiting = [asyncio.create_task(hasher.verify(GOOD, None)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await hasher.verify(GOOD, None)
        gate.set()
        assert await asyncio.gather(*waiting) == [True, True]
