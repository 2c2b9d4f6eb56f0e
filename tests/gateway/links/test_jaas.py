import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.links.jaas import JaasError, parse_jaas

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("M required;", {}),
        ('M required username="a" password="b";', {"username": "a", "password": "b"}),
        ("M required username='a' password='b c';", {"username": "a", "password": "b c"}),
        ('M REQUIRED\n  username = "a"\n  password="b" ;\n', {"username": "a", "password": "b"}),
        ("M required username=a password=b-c_d$1;", {"username": "a", "password": "b-c_d$1"}),
        (r'M required p="say \"hi\" \\ \101\t";', {"p": 'say "hi" \\ A\t'}),
        ("""M required p="it's" q='"';""", {"p": "it's", "q": '"'}),
        ('M required p="a;b=c";', {"p": "a;b=c"}),
        ('M required // note\n /* more\n */ p="a";', {"p": "a"}),
    ],
)
def test_options_are_read_as_kafka_reads_them(text: str, options: dict[str, str]) -> None:
    module = parse_jaas(text)
    assert (module.name, module.options) == ("M", options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "M;",
        "M wanted;",
        'M required password="hush"',
        'M required password "hush";',
        "M required password=;",
        'M required password="hush;',
        'M required password="hush"; N required;',
        'M required ( password="hush";',
    ],
)
def test_mistakes_are_refused_without_quoting_the_password(text: str) -> None:
    with pytest.raises(JaasError) as refused:
        parse_jaas(text)
    assert "hush" not in str(refused.value)


def test_options_do_not_format() -> None:
    assert "hush" not in repr(parse_jaas('M required password="hush";'))


@given(st.text().filter(lambda text: "\n" not in text))
def test_any_password_can_be_quoted(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_jaas(f'{PLAIN} required password="{quoted}";').options == {"password": password}
