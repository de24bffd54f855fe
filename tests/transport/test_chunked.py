"""Bodies in chunks: what the HTTP parser finds in them, wherever they are cut, and in bounded steps."""

import random

import httptools
import pytest

from gateway.transport.chunked import MAX_STEP_CHUNKS, MAX_TRAILER_BYTES, STEP_BYTES, ChunkedBody
from gateway.transport.framing import MAX_FIELDS, Refused

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Parsed:
    """What the HTTP parser makes of a body: the data, and whether it has ended."""

    def __init__(self, text: bytes) -> None:
        self.data = b""
        self.ended = False
        self.refused = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(HEAD)
        try:
            for at in range(len(text)):
                parser.feed_data(text[at : at + 1])
                if self.ended:
                    break
        except httptools.HttpParserError:
            self.refused = True

    def on_body(self, data: bytes) -> None:
        self.data += data

    def on_message_complete(self) -> None:
        self.ended = True


def decoded(text: bytes, *, piece: int = 1 << 30) -> tuple[bytes, int, ChunkedBody]:
    """Return what a body is that comes in pieces of this size, and where it ends."""
    body, data, at = ChunkedBody(), b"", 0
    for begin in range(0, len(text), piece):
        part, at = text[begin : begin + piece], 0
        while at < len(part) and not body.whole:
            more, end = body.take(part, at)
            assert end > at
            data, at = data + more, end
        if body.whole:
            return data, begin + at, body
    return data, len(text), body


def refused(text: bytes, *, piece: int = 1 << 30) -> int | None:
    """Return the status with which a body is refused."""
    try:
        decoded(text, piece=piece)
    except Refused as error:
        return error.status
    return None


def some_body(chance: random.Random) -> tuple[bytes, bytes]:
    """Return a body, and its data."""
    text, data = b"", b""
    for _ in range(chance.randrange(6)):
        part = chance.choice((b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"a", b"\0\xff")) * chance.randrange(1, 9)
        size = chance.choice((b"%x", b"%X", b"%04x")) % len(part)
        text += size + chance.choice((b"", b";a", b";a=b", b';a="b c"')) + b"\r\n" + part + b"\r\n"
        data += part
    text += chance.choice((b"0", b"000", b"0;a=b")) + b"\r\n"
    text += chance.choice((b"", b"A: b\r\n", b"A:\r\nX-1: b\tc \xff\r\n")) + b"\r\n"
    return text, data


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1 << 30])
def test_a_decoded_body_and_its_end_match_the_http_parser(piece: int) -> None:
    chance = random.Random(piece)
    for _ in range(200):
        text, data = some_body(chance)
        parsed = Parsed(text + b"GET")
        assert (parsed.ended, parsed.data) == (True, data), text
        assert decoded(text + b"GET", piece=piece)[:2] == (data, len(text)), text
        assert not decoded(text[:-1], piece=piece)[2].whole, text


@pytest.mark.parametrize("piece", [1, 2, 5, 1 << 30])
def test_a_body_refused_by_the_http_parser_is_refused(piece: int) -> None:
    chance = random.Random(piece)
    found = 0
    for _ in range(2000):
        text, _ = some_body(chance)
        at = chance.randrange(len(text))
        broken = text[:at] + chance.choice((b"", b"\n", b"\r", b" ", b"g", b"\r\n", b"\0")) + text[at + 1 :]
        parsed = Parsed(broken)
        found += parsed.refused
        # What is no whole line yet may be refused with the end of that line.
        assert not parsed.refused or refused(broken + b"\r\n", piece=piece) == 400, broken
        if parsed.ended and refused(broken, piece=piece) is None:
            assert decoded(broken, piece=piece)[0] == parsed.data, broken
    assert found > 500


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"\r\n",
        b"-1",
        b"0x1",
        b"1 ",
        b" 1",
        b"1\n",
        b"+1",
        b"1_0",
        b"1\r\nab",
        b"1\r\na\n",
        b"1\r\na0",
        b"0\r\n X: a",
        b"0\r\nX a",
        b"0\r\n\n",
        b"0\r\n: a",
        b"00000000000000001",
    ],
)
def test_an_invalid_start_of_a_line_is_refused_before_the_line_ends(text: bytes) -> None:
    assert refused(text) == 400


def test_a_step_takes_at_most_16_kib_and_256_chunks() -> None:
    body = ChunkedBody()
    assert body.take(b"%x\r\n%b" % (2 * STEP_BYTES, b"x" * 2 * STEP_BYTES), 0) == (
        b"x" * (STEP_BYTES - 6),
        STEP_BYTES,
    )
    body = ChunkedBody()
    data, end = body.take(b"1\r\na\r\n" * 1000, 0)
    assert body.lines == MAX_STEP_CHUNKS
    assert end <= MAX_STEP_CHUNKS * 6
    assert len(data) in {MAX_STEP_CHUNKS, MAX_STEP_CHUNKS - 1}


def test_data_that_resembles_chunk_framing_is_read_as_data() -> None:
    data = b"\r\n\r\n0\r\n\r\n" * 1000
    body = ChunkedBody()
    text = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    assert body.take(text, 0) == (data, len(text))
    assert body.lines == 3


def test_each_byte_of_a_line_in_pieces_is_searched_once() -> None:
    class Counted(bytearray):
        looked_at = 0

        def find(self, what: bytes, begin: int) -> int:  # type: ignore[override]
            Counted.looked_at += len(self) - begin
            return super().find(what, begin)

    body = ChunkedBody()
    body._partial = Counted()
    for byte in b"1;" + b"a" * 5000 + b"\r\n":
        body.take(bytes((byte,)), 0)
    assert Counted.looked_at <= 2 * 5004
    assert body.lines == 1


@pytest.mark.parametrize("piece", [1000, 1 << 30])
@pytest.mark.parametrize("extra", [0, 1])
def test_chunk_extensions_and_trailers_are_limited_to_16_kib(piece: int, extra: int) -> None:
    for begin in (b"0\r\nX-A: ", b"0;a="):
        text = begin + b"x" * (MAX_TRAILER_BYTES + extra - len(begin) - 4) + b"\r\n\r\n"
        assert refused(text, piece=piece) == (431 if extra else None)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_body_has_at_most_100_trailers(extra: int) -> None:
    assert refused(b"0\r\n" + b"a:\r\n" * (MAX_FIELDS + extra) + b"\r\n") == (431 if extra else None)
