"""URLs of Redis and Valkey: all their forms, and what is said about wrong ones."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store_url import RedisUrl, parse_redis_url

ONE = (("h", 6379),)


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("redis://h", RedisUrl(ONE)),
        ("redis://h/", RedisUrl(ONE)),
        ("REDIS://h", RedisUrl(ONE)),
        ("valkey://h:7000/3", RedisUrl((("h", 7000),), database=3)),
        ("rediss://h", RedisUrl(ONE, tls=True)),
        ("valkeys://h", RedisUrl(ONE, tls=True)),
        ("redis://[::1]:1", RedisUrl((("::1", 1),))),
        ("redis://:p%40ss@h", RedisUrl(ONE, password="p@ss")),
        ("redis://ann:p:ss@h", RedisUrl(ONE, username="ann", password="p:ss")),
        ("redis://ann@h", RedisUrl(ONE, username="ann")),
        (
            "redis://a:1,b:2/?cluster=1",
            RedisUrl((("a", 1), ("b", 2)), mode="cluster"),
        ),
        ("redis://a?cluster=1", RedisUrl((("a", 6379),), mode="cluster")),
        ("redis://a?cluster=0", RedisUrl((("a", 6379),))),
        (
            "redis+sentinel://a,b:2/my%20games",
            RedisUrl((("a", 26379), ("b", 2)), mode="sentinel", service="my games"),
        ),
        (
            "valkeys+sentinel://:p@a/games?wait=1",
            RedisUrl(
                (("a", 26379),),
                mode="sentinel",
                service="games",
                password="p",
                tls=True,
                wait=1,
            ),
        ),
        (
            "redis://h?prefix=my.game&timeout=2.5&wait=2&wait_timeout=0.5",
            RedisUrl(ONE, prefix="my.game", timeout=2.5, wait=2, wait_timeout=0.5),
        ),
        (
            "rediss://h?ca_file=/etc/ca.pem&certificate_file=c&key_file=k",
            RedisUrl(ONE, tls=True, ca_file="/etc/ca.pem", certificate_file="c", key_file="k"),
        ),
    ],
)
def test_a_url_says_where_and_how(url: str, parsed: RedisUrl) -> None:
    assert parse_redis_url(url) == parsed


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis:h", 'must be "redis://HOST:PORT"'),
        ("redis://", 'must be "redis://HOST:PORT"'),
        ("redis://h,", 'must be "redis://HOST:PORT"'),
        ("redis://h:x", 'must be "redis://HOST:PORT"'),
        ("redis://h#f", 'must be "redis://HOST:PORT"'),
        ("redis://h:0", "has port 0; it must be between 1 and 65535"),
        ("redis://h:65536", "has port 65536"),
        ("redis://h/games", 'something other than the number of a database after the "/"'),
        ("redis://a,b", "has several hosts; write ?cluster=1"),
        ("redis+sentinel://a", "names no master"),
        ("redis+sentinel://a/m?cluster=1", "a Cluster does without them"),
        ("redis://a/1?cluster=1", "has a database other than 0"),
        ("redis://a?cluster=yes", 'has cluster "yes"; it must be 0 or 1'),
        ("redis://a?pool=3", 'has an unknown option "pool"; there are cluster, prefix'),
        ("redis://a?wait=1&wait=2", "has wait twice"),
        ("redis://a?prefix=", "has prefix without a value"),
        ("redis://a?prefix={x}", 'has prefix "{x}"; it must be 1 to 64 letters'),
        ("redis://a?timeout=0", 'has timeout "0"; it must be a number from 0.1 to 600'),
        ("redis://a?timeout=nan", 'has timeout "nan"'),
        ("redis://a?wait=1.5", 'has wait "1.5"; it must be a whole number from 0 to 100'),
        ("redis://a?wait_timeout=-1", 'has wait_timeout "-1"'),
        ("redis://a?ca_file=x", "has ca_file without TLS; write rediss://"),
        ("rediss://a?key_file=x", "it takes both"),
    ],
)
def test_a_wrong_url_is_refused_with_what_to_write(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^has|^must be|^names") as caught:
        parse_redis_url(url)
    assert message in str(caught.value)


@given(st.text(min_size=1, max_size=30), st.text(max_size=10))
def test_any_password_can_be_written_and_no_repr_shows_it(password: str, username: str) -> None:
    url = f"redis://{quote(username, safe='')}:{quote(password, safe='')}@h"
    parsed = parse_redis_url(url)
    assert (parsed.username, parsed.password) == (username, password)
    assert "password" not in repr(parsed)


@pytest.mark.parametrize("special", "/?#@:&=,[]% ")
def test_no_message_repeats_a_password_that_should_have_been_quoted(special: str) -> None:
    for secret in (f"SEC{special}RET", f"6{special}SECRET", f"SECRET{special}6"):
        for end in ("", "/0", "/?wait=1"):
            try:
                parse_redis_url(f"redis://:{secret}@h{end}")
            except ValueError as error:
                text = str(error)
                assert "SEC" not in text
                assert "RET" not in text
