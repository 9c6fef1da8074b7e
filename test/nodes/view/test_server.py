"""The page's web server, as browsers and other programs meet it. Needs no ROS."""

import asyncio
import contextlib
import json
import socket
import threading
from concurrent.futures import Future

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the page needs aiohttp, the extra view")

from world_model_ros.nodes.view import server  # noqa: E402
from world_model_ros.nodes.view.access import Access, listen  # noqa: E402

WAIT = 20.0  # seconds for anything to happen on a busy machine


class Page:
    """A PageServer, and what it asked for."""

    def __init__(self, host):
        sockets = listen(host, 0)
        self.access = Access(host, sockets)
        self.pressed, self.changes = [], threading.Semaphore(0)
        self.answer = (True, "pressed")
        self.server = server.PageServer(sockets, self.access, self.press, self.changes.release)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.access.port}"
        self.own = {"Origin": self.url}

    def press(self, name):
        """Answer a button at once; "never" has no answer."""
        if name == "unknown":
            return None
        self.pressed.append(name)
        future = Future()
        if name != "never":
            future.set_result(self.answer)
        return future

    def changed(self):
        """Wait until somebody watches, or nobody does any more."""
        assert self.changes.acquire(timeout=WAIT)


@pytest.fixture
def make():
    """Return a function that makes a Page on a host."""
    pages = []

    def begin(host="localhost"):
        pages.append(Page(host))
        return pages[-1]

    yield begin
    for page in pages:
        page.server.close()
        assert not page.server._thread.is_alive()


def talk(page, conversation, **options):
    """Run ``conversation(session)`` with an aiohttp session that has these options."""

    async def run():
        jar = aiohttp.CookieJar(unsafe=True)  # takes cookies of an address, too
        async with aiohttp.ClientSession(page.url, cookie_jar=jar, **options) as session:
            return await asyncio.wait_for(conversation(session), WAIT)

    return asyncio.run(run())


async def batch(watching):
    """Return the next batch of a viewer: its values with its pictures."""
    head = json.loads(await watching.receive_str(timeout=WAIT))
    pictures = {name: await watching.receive_bytes(timeout=WAIT) for name in head["pictures"]}
    return head["values"] | pictures


async def until(watching, name, value):
    """Take batches, as a browser does, until ``name`` has this value; return them."""
    taken = []
    while not taken or taken[-1].get(name) != value:
        taken.append(await batch(watching))
        await watching.send_str("shown")
    return taken


def test_the_page_and_its_files_are_served_and_nothing_else(make):
    page = make()

    async def conversation(session):
        for name, kind in [("", "text/html"), *server.FILES.items()]:
            async with session.get(f"/{name}") as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                assert "Set-Cookie" not in answer.headers
                text = await answer.text()
                assert "http://" not in text.replace("http://www.w3.org", "")
                assert "https://" not in text  # it works without a network
        for path in ("/server.py", "/%2e%2e/view_node.py", "/page.html/..%2fserver.py", "/press/stop"):
            async with session.get(path) as answer:
                assert answer.status in (404, 405, 403)
        assert page.pressed == []

    talk(page, conversation)


def test_a_button_is_pressed_by_the_page_and_answered(make):
    page = make()
    page.answer = (False, "not now")

    async def conversation(session):
        async with session.post("/press/reset", headers=page.own) as answer:
            assert await answer.json() == {"done": False, "message": "not now"}
        async with session.post("/press/unknown", headers=page.own) as answer:
            assert answer.status == 404
        async with session.get("/press/reset", headers=page.own) as answer:
            assert answer.status == 405

    talk(page, conversation)
    assert page.pressed == ["reset"]


def test_a_button_without_an_answer_says_so(make, monkeypatch):
    monkeypatch.setattr(server, "ANSWERED_WITHIN", 0.1)
    page = make()

    async def conversation(session):
        async with session.post("/press/never", headers=page.own) as answer:
            return await answer.json()

    assert talk(page, conversation) == {"done": False, "message": "no answer within 0.1 s"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_no_other_page_presses_a_button_or_watches(make, headers):
    page = make()

    async def conversation(session):
        async with session.post("/press/enable", headers=headers) as answer:
            assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await session.ws_connect("/watch", headers=headers)
        assert error.value.status == 403

    talk(page, conversation)
    assert page.pressed == []
    assert page.server.viewers == 0


@pytest.mark.parametrize("given", ["nothing", "cookie", "bearer", "query"])
def test_nothing_is_answered_elsewhere_without_the_token(make, given):
    page = make("0.0.0.0")
    wrong = page.access.token[:-1] + ("a" if page.access.token[-1] != "a" else "b")
    options = {
        "nothing": {},
        "cookie": {"cookies": {page.access.cookie: wrong}},
        "bearer": {"headers": {"Authorization": f"Bearer {wrong}"}},
        "query": {},
    }[given]
    query = f"?token={wrong}" if given == "query" else ""

    async def conversation(session):
        for path in ("/", *(f"/{name}" for name in server.FILES), "/nothing"):
            async with session.get(path + query) as answer:
                assert answer.status == 401
                assert "Set-Cookie" not in answer.headers
        for button in ("stop", "enable", "unknown"):
            # The right token in the query counts for the page alone: a link is no button.
            for words in (query, f"?token={page.access.token}"):
                async with session.post(f"/press/{button}{words}", headers=page.own) as answer:
                    assert answer.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await session.ws_connect(f"/watch{query}", headers=page.own)
        assert error.value.status == 401

    talk(page, conversation, **options)
    assert page.pressed == []
    assert page.server.viewers == 0


def test_the_stream_of_pictures_is_not_compressed_once_more(make):
    page = make()

    async def conversation(session):
        async with session.ws_connect("/watch", headers=page.own, compress=15) as watching:
            assert not watching.compress

    talk(page, conversation)


@pytest.mark.parametrize(
    ("host", "header", "status"),
    [
        ("localhost", b"Host: \xff", 403),
        ("0.0.0.0", b"Host: a\r\nOrigin: http://\xff", 403),
        ("0.0.0.0", b"Host: a\r\nAuthorization: Bearer \xff", 401),
        ("0.0.0.0", b"Host: a\r\nCookie: world_model_ros_%d=\xff", 401),
    ],
)
def test_headers_that_are_no_text_are_refused_without_a_traceback(make, caplog, host, header, status):
    page = make(host)
    header = header.replace(b"%d", str(page.access.port).encode())
    with socket.create_connection(("127.0.0.1", page.access.port), timeout=WAIT) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + header + b"\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert int(answer.readline().split()[1]) == status
    assert not caplog.records


def test_the_address_with_the_token_opens_the_page_and_the_rest_follows(make):
    page = make("0.0.0.0")

    async def conversation(session):
        async with session.get(f"/?token={page.access.token}") as answer:
            assert answer.status == 200
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        async with session.get("/page.js") as answer:
            assert answer.status == 200
        async with session.post("/press/stop", headers=page.own) as answer:
            assert (await answer.json())["done"]
        async with session.post("/press/stop", headers={"Origin": "http://evil.example"}) as answer:
            assert answer.status == 403
        async with session.ws_connect("/watch", headers=page.own):
            page.changed()

    talk(page, conversation)
    assert page.pressed == ["stop"]


def test_every_viewer_gets_the_newest_and_a_slow_one_holds_nobody_up(make):
    page = make()

    async def conversation(session):
        async with (
            session.ws_connect("/watch", headers=page.own) as slow,
            session.ws_connect("/watch", headers=page.own) as quick,
        ):
            page.changed()
            page.server.publish(status="first")
            assert {"status": "first"} in await until(quick, "status", "first")
            while (await batch(slow)).get("status") != "first":
                await slow.send_str("shown")
            # The slow one has not shown that, and is sent nothing more; the quick one goes on.
            for number in range(300):
                page.server.publish(camera=bytes([number % 256]) * 100_000, number=number)
                if number % 100 == 99:
                    taken = await until(quick, "number", number)
                    assert taken[-1]["camera"][0] == number % 256
            (waiting,) = (v for v in page.server._all if v.waiting)
            assert set(waiting.waiting) == {"camera", "number"}
            await slow.send_str("shown")
            newest = await batch(slow)
            assert (newest["number"], newest["camera"][0]) == (299, 299 % 256)
            async with session.ws_connect("/watch", headers=page.own) as late:
                first = await batch(late)
            assert (first["status"], first["number"]) == ("first", 299)
        page.changed()

    talk(page, conversation)
    assert page.server.viewers == 0
    assert page.server._newest == {}  # what comes later is not shown what is old by then


def test_a_viewer_that_takes_nothing_is_disconnected(make, monkeypatch):
    monkeypatch.setattr(server, "SHOWN_WITHIN", 0.2)
    page = make()

    async def conversation(session):
        async with session.ws_connect("/watch", headers=page.own, autoping=False):
            page.changed()
            page.server.publish(camera=bytes(5_000_000))
            page.changed()  # nobody watches any more

    talk(page, conversation)
    assert page.server.viewers == 0


def test_there_is_a_limit_to_the_number_of_viewers(make, monkeypatch):
    monkeypatch.setattr(server, "MOST_VIEWERS", 2)
    page = make()

    async def conversation(session):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(session.ws_connect("/watch", headers=page.own))
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await session.ws_connect("/watch", headers=page.own)
            assert error.value.status == 503

    talk(page, conversation)


def test_it_ends_while_somebody_watches(make):
    page = make()

    async def conversation(session):
        async with session.ws_connect("/watch", headers=page.own) as watching:
            page.changed()
            ending = asyncio.get_running_loop().run_in_executor(None, page.server.close)
            while (await watching.receive(timeout=WAIT)).type is aiohttp.WSMsgType.TEXT:
                pass
            await ending
        page.server.publish(status="after the end")  # changes nothing

    talk(page, conversation)
