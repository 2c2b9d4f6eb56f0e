from protocol.errors import DecodeError, FrameTooLarge, ProtocolError, UnsupportedVersion


def test_a_frame_too_large_says_how_large() -> None:
    error = FrameTooLarge(101, 100)
    assert isinstance(error, DecodeError)
    assert (error.size_bytes, error.limit_bytes) == (101, 100)
    assert str(error) == "frame of 101 bytes, the limit is 100"


def test_a_frame_too_large_says_what_it_looks_like() -> None:
    error = FrameTooLarge(369_295_616, 100, "TLS")
    assert error.looks_like == "TLS"
    assert str(error).endswith("the limit is 100; this is not Kafka, it looks like TLS")


def test_an_unsupported_version_is_no_decode_error() -> None:
    error = UnsupportedVersion(3, 99)
    assert isinstance(error, ProtocolError)
    assert not isinstance(error, DecodeError)
    assert (error.api_key, error.version) == (3, 99)
    assert str(error) == "API key 3 version 99 is not supported"
