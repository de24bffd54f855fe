"""Frames from bytes: the same as the parser of `websockets` finds, wherever the bytes are cut."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close as CloseFrame
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode as TheirOpcode
from websockets.streams import StreamReader

from gateway.protocol.wire import MAX_FRAME
from gateway.transport.frames import (
    MAX_CONTROL_BYTES,
    BadFrame,
    Frame,
    Opcode,
    close_code,
    control_frame,
    decode_text,
    parse_frame,
)

payloads = st.one_of(
    st.binary(max_size=300), st.sampled_from([125, 126, MAX_FRAME - 1, MAX_FRAME, 65_535, 65_536]).map(bytes)
)
frames = st.builds(
    lambda opcode, data, fin: TheirFrame(opcode, data, fin).serialize(mask=True),
    st.sampled_from([TheirOpcode.TEXT, TheirOpcode.BINARY, TheirOpcode.CONT]),
    payloads,
    st.booleans(),
)
controls = st.builds(
    lambda opcode, data: TheirFrame(opcode, data).serialize(mask=True),
    st.sampled_from([TheirOpcode.PING, TheirOpcode.PONG, TheirOpcode.CLOSE]),
    st.binary(max_size=MAX_CONTROL_BYTES),
)
mistakes = st.builds(
    lambda first, second, rest: bytes([first, second]) + rest,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=40),
)


def ours(data: bytes) -> tuple[list[tuple[int, bytes, bool]], int | None]:
    """Return the frames of these bytes, and the close code of the mistake that ends them."""
    found: list[tuple[int, bytes, bool]] = []
    at = 0
    try:
        while (parsed := parse_frame(data, at, MAX_FRAME)) is not None:
            frame, at = parsed
            found.append((frame.opcode, frame.data, frame.fin))
    except BadFrame as bad:
        return found, int(bad.code)
    return found, None


def theirs(data: bytes) -> tuple[list[tuple[int, bytes, bool]], int | None]:
    """Return the same by the parser of `websockets`."""
    reader = StreamReader()
    reader.feed_data(data)
    found: list[tuple[int, bytes, bool]] = []
    while True:
        steps = TheirFrame.parse(reader.read_exact, mask=True, max_size=MAX_FRAME)
        try:
            next(steps)
        except StopIteration as end:
            found.append((end.value.opcode, bytes(end.value.data), end.value.fin))
        except ProtocolError:
            return found, 1002
        except PayloadTooBig:
            return found, 1009
        else:
            return found, None


@given(st.lists(st.one_of(frames, controls), max_size=6), st.integers(0, 20))
def test_valid_frames_are_parsed_as_by_the_websockets_library(pieces: list[bytes], missing: int) -> None:
    data = b"".join(pieces)
    data = data[: len(data) - missing] if missing < len(data) else data
    assert ours(data) == theirs(data)


@given(st.lists(st.one_of(frames, controls), max_size=2), mistakes)
@example([], b"\x81\x00")
@example([], b"\xc1\x80\x00\x00\x00\x00")
@example([], b"\x83\x80\x00\x00\x00\x00")
@example([], b"\x09\x80\x00\x00\x00\x00")
@example([], b"\x89\xfe\x00\x7e" + bytes(130))
@example([], b"\x81\xff" + b"\xff" * 8)
def test_an_invalid_frame_gets_the_close_code_of_the_websockets_library(
    pieces: list[bytes], mistake: bytes
) -> None:
    data = b"".join(pieces) + mistake
    found, code = ours(data)
    expected, their_code = theirs(data)
    if code is not None and their_code is None:
        # This parser refuses a frame by its head, before its payload has come.
        expected, their_code = theirs(data + bytes(70_000))
        expected = expected[: len(found)]
    if {code, their_code} == {1002, 1009}:
        # A frame with two mistakes.
        their_code = code
    assert (found, code) == (expected, their_code)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 126, MAX_FRAME])
def test_a_payload_of_any_length_is_unmasked(size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    frame, end = parse_frame(TheirFrame(TheirOpcode.TEXT, data).serialize(mask=True), 0, MAX_FRAME) or (
        None,
        0,
    )
    assert frame == Frame(Opcode.TEXT, data, fin=True)
    assert end > size


def test_an_overlong_frame_is_refused_before_its_payload_arrives() -> None:
    head = TheirFrame(TheirOpcode.TEXT, bytes(MAX_FRAME + 1)).serialize(mask=True)[:4]
    with pytest.raises(BadFrame) as refused:
        parse_frame(head, 0, MAX_FRAME)
    assert (refused.value.code, refused.value.reason) == (1009, "payload_too_large")


@pytest.mark.parametrize("code", [*range(990, 1020), 1100, 2999, 3000, 4001, 4999, 5000, 65_535])
def test_a_close_code_is_valid_if_the_websockets_library_allows_it(code: int) -> None:
    data = code.to_bytes(2, "big")
    try:
        allowed = CloseFrame.parse(data).code == code
    except ProtocolError:
        allowed = False
    if allowed:
        assert close_code(data + b"bye") == code
    else:
        with pytest.raises(BadFrame) as refused:
            close_code(data)
        assert refused.value.code == 1002


def test_a_close_without_a_code_is_1005_and_half_a_code_is_1002() -> None:
    assert close_code(b"") == 1005
    with pytest.raises(BadFrame) as refused:
        close_code(b"\x03")
    assert refused.value.code == 1002


def test_text_and_reasons_must_be_utf_8() -> None:
    assert decode_text("é".encode()) == "é"
    for broken in (lambda: decode_text(b"\xff"), lambda: close_code(b"\x03\xe8\xff")):
        with pytest.raises(BadFrame) as refused:
            broken()
        assert refused.value.code == 1007


@pytest.mark.parametrize("opcode", [Opcode.CLOSE, Opcode.PING, Opcode.PONG])
def test_a_control_frame_equals_that_of_the_websockets_library(opcode: Opcode) -> None:
    for data in (b"", b"x" * MAX_CONTROL_BYTES):
        assert control_frame(opcode, data) == TheirFrame(TheirOpcode(opcode), data).serialize(mask=False)
