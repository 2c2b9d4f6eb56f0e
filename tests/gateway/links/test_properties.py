import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.links.properties import PropertiesError, parse_properties

# As java.util.Properties.load reads them.
JAVA = [
    ("", {}),
    ("a=b", {"a": "b"}),
    ("a = b ", {"a": "b "}),
    ("a:b=c", {"a": "b=c"}),
    ("a b=c", {"a": "b=c"}),
    ("a : = b", {"a": "= b"}),
    ("a", {"a": ""}),
    ("  \t a=b", {"a": "b"}),
    ("=b", {"": "b"}),
    ("# c\n! c=d\n\n   # e\na=b", {"a": "b"}),
    ("# comment \\\na=b", {"a": "b"}),
    ("a=b\\\n   c", {"a": "bc"}),
    ("a=b\\\n# no comment", {"a": "b# no comment"}),
    ("a=b\\\r\n  c\rd=e", {"a": "bc", "d": "e"}),
    ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
    ("a=b\\", {"a": "b"}),
    ("a=b\\\n", {"a": "b"}),
    ("a=b\\\n\nc=d", {"a": "b", "c": "d"}),
    ("\\\n  ", {}),
    ("\\\n\na=b", {"a": "b"}),
    ("\\\n  !c\na=b", {"a": "b"}),
    ("a\n\\\r\n", {"a": ""}),
    ("a\n\\", {"a": "", "": ""}),
    (r"a\=b\:c\ d=e", {"a=b:c d": "e"}),
    (r"a=\t\n\r\f\q\"\\", {"a": '\t\n\r\fq"\\'}),
    (r"a=\u00e9\u0041", {"a": "éA"}),
    ("a=1\na=2", {"a": "2"}),
    (r"filter=\{\"x\": [\{ \}]\}", {"filter": '{"x": [{ }]}'}),
]


@pytest.mark.parametrize(("text", "wanted"), JAVA)
def test_files_are_read_as_java_reads_them(text: str, wanted: dict[str, str]) -> None:
    assert parse_properties(text) == wanted


def test_a_broken_unicode_escape_is_named_by_its_line() -> None:
    with pytest.raises(PropertiesError, match="line 2"):
        parse_properties("a=b\nc=\\u12g4")


@given(st.text().filter(lambda text: "\\u" not in text))
def test_any_text_is_read(text: str) -> None:
    for key, value in parse_properties(text).items():
        assert "\0" not in key + value or "\0" in text


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5))
def test_escaped_texts_come_back(pairs: dict[str, str]) -> None:
    def escape(text: str) -> str:
        return "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text)

    text = "\n".join(f"{escape(key)}={escape(value)}" for key, value in pairs.items())
    assert parse_properties(text) == pairs
