"""Where the page listens, and which requests are refused. Needs no ROS and no web server."""

import socket

import pytest

from world_model_ros.errors import UserError
from world_model_ros.nodes.view.access import Access, listen


@pytest.fixture
def listening():
    """Return a function like ``listen``, whose sockets are closed in the end."""
    made = []

    def begin(host, port=0):
        made.extend(sockets := listen(host, port))
        return sockets

    yield begin
    for each in made:
        each.close()


def test_localhost_is_reached_from_this_machine_alone_and_needs_no_token(listening):
    sockets = listening("localhost")
    assert {made.getsockname()[0] for made in sockets} <= {"127.0.0.1", "::1"}
    assert len({made.getsockname()[1] for made in sockets}) == 1
    access = Access("localhost", sockets)
    assert access.local
    assert access.address() == f"http://localhost:{access.port}/"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_any_other_host_gets_a_new_token_each_time(listening, host):
    if host == "::" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        sockets = listening(host)
    except UserError:
        pytest.skip("this machine has no IPv6")
    one, other = Access(host, sockets), Access(host, sockets)
    assert not one.local
    assert len(one.token) >= 32
    assert one.token != other.token
    assert one.address() == f"http://{socket.gethostname()}:{one.port}/?token={one.token}"
    assert one.allows(one.token)
    assert not any(one.allows(wrong) for wrong in ("", None, "ü", one.token[:-1], other.token))


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("", 0, "host is ''"),
        ("no-such-host.invalid", 0, "cannot find"),
        ("x" * 300, 0, "cannot find"),
        ("192.0.2.1", 0, "is not an address of this machine"),
    ],
)
def test_a_host_that_cannot_be_served_is_one_sentence(host, port, expected):
    with pytest.raises(UserError, match=expected):
        listen(host, port)


def test_a_port_that_is_taken_is_one_sentence(listening):
    port = listening("localhost")[0].getsockname()[1]
    with pytest.raises(UserError, match=f"port {port} of localhost, for the page, is used") as error:
        listen("localhost", port)
    assert "0 takes a free one" in str(error.value)


@pytest.mark.parametrize(
    ("host", "origin", "acts", "refused"),
    [
        ("localhost:{}", None, False, ""),
        ("127.0.0.1:{}", None, False, ""),
        ("[::1]:{}", None, False, ""),
        ("localhost:{}", "http://localhost:{}", True, ""),
        ("localhost:9000", "http://localhost:9000", True, ""),  # through a tunnel
        # DNS rebinding: the attacker's name leads to this machine.
        ("evil.example:{}", None, False, "this machine only"),
        ("evil.example:{}", "http://evil.example:{}", True, "this machine only"),
        ("localhost.evil.example:{}", None, False, "this machine only"),
        ("192.168.0.7:{}", None, False, "this machine only"),
        ("[::1", None, False, "this machine only"),
        ("", None, False, "this machine only"),
        # Another site's page, or another program's on this machine, presses a button.
        ("localhost:{}", "https://evil.example", True, "Another page"),
        ("localhost:{}", "http://localhost:3000", True, "Another page"),
        ("localhost:{}", "http://127.0.0.1:{}", True, "Another page"),
        ("localhost:{}", "null", True, "Another page"),
        ("localhost:{}", "http://[", True, "Another page"),
        ("localhost:{}", "ftp://localhost:{}", True, "Another page"),
        ("localhost:{}", "https://evil.example", False, "Another page"),
        ("localhost:{}", None, True, "Origin is missing"),
    ],
)
def test_other_pages_are_refused_on_localhost(listening, host, origin, acts, refused):
    access = Access("localhost", listening("localhost"))
    origin = origin and origin.format(access.port)
    problem = access.problem(host.format(access.port), origin, acts)
    assert refused in problem
    assert bool(problem) == bool(refused)


def test_elsewhere_any_name_may_lead_here_but_only_the_page_may_act(listening):
    access = Access("0.0.0.0", listening("0.0.0.0"))
    assert access.problem("robot:1", "http://robot:1", True) == ""
    assert access.problem("robot", "https://robot", True) == ""  # a proxy in front
    assert "Another page" in access.problem("robot:1", "http://evil.example", True)
    assert "Another page" in access.problem("", "null", True)
