"""The page's web server: a thread that serves the files, the stream and the buttons. Imports no ROS.

Every viewer gets the newest of everything, one batch at a time, and the next batch once its browser has shown
the last one. What a slow viewer has not taken is overwritten, so it holds up nobody and nothing grows.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from aiohttp import WSMsgType, web

from world_model_ros.nodes.view.access import Access

FILES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "plot.js": "text/javascript",
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
MOST_VIEWERS = 16
SHOWN_WITHIN = 10.0  # seconds in which a viewer takes a batch and shows it; otherwise it is disconnected
HEARTBEAT = 5.0  # seconds between two pings of a viewer
ANSWERED_WITHIN = 3.0  # seconds for the answer to a button
END = 1.0  # seconds in which the thread ends

Value = bytes | str | float | bool | dict | None


class Viewer:
    """What one browser has not been sent yet: the newest value of each name."""

    def __init__(self, newest: dict[str, Value]):
        self.waiting = dict(newest)
        self.fresh, self.shown = asyncio.Event(), asyncio.Event()
        self.fresh.set()

    def put(self, values: dict[str, Value]) -> None:
        """Take new values, in place of older ones."""
        self.waiting |= values
        self.fresh.set()

    async def send(self, socket: web.WebSocketResponse) -> None:
        """Send batch after batch, for as long as the viewer takes them. Raises TimeoutError."""
        while not socket.closed:
            await self.fresh.wait()
            self.fresh.clear()
            self.shown.clear()
            batch, self.waiting = self.waiting, {}
            await asyncio.wait_for(self._send(socket, batch), SHOWN_WITHIN)
            await asyncio.wait_for(self.shown.wait(), SHOWN_WITHIN)

    @staticmethod
    async def _send(socket: web.WebSocketResponse, batch: dict[str, Value]) -> None:
        """Send a batch: the values as JSON, with the names of the pictures, which follow in this order."""
        pictures = {name: value for name, value in batch.items() if isinstance(value, bytes)}
        values = {name: value for name, value in batch.items() if name not in pictures}
        await socket.send_str(json.dumps({"values": values, "pictures": list(pictures)}))
        for picture in pictures.values():
            await socket.send_bytes(picture)


class PageServer:
    """Serves the page on the sockets of ``access``, from a thread of its own.

    ``press(button)`` is called in that thread and returns a Future of (done, sentence), or None for a button
    that does not exist. ``watched()`` is called there, too, when the first viewer has come or the last one
    has left: ``viewers`` is their number.
    """

    def __init__(
        self,
        sockets: list,
        access: Access,
        press: Callable[[str], "Future | None"],
        watched: Callable[[], None],
    ):
        self.sockets, self.access, self.press, self.watched = sockets, access, press, watched
        self.viewers = 0
        self._all: set[Viewer] = set()
        self._newest: dict[str, Value] = {}  # of all names, for viewers to come; only while somebody watches
        self._fresh: dict[str, Value] = {}  # published, and not handed to the viewers yet
        self._lock = threading.Lock()  # for _fresh
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._files = {name: (Path(__file__).parent / name).read_bytes() for name in FILES}

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """End all connections, and the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(END)
        for listening in self.sockets:
            listening.close()

    def publish(self, **values: Value) -> None:
        """Send values to all viewers, from any thread; pictures are bytes, None takes a value back."""
        with self._lock:
            scheduled = bool(self._fresh)
            self._fresh |= values
        if not scheduled and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            values, self._fresh = self._fresh, {}
        if self._all:
            self._newest |= values
        for viewer in self._all:
            viewer.put(values)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        application = web.Application(middlewares=[self._guard], client_max_size=1024)
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/watch", self._watch),
                web.get("/{name}", self._file),
                web.post("/press/{button}", self._press),
            ]
        )
        application.on_response_prepare.append(self._add_headers)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2, handle_signals=False)
        await runner.setup()
        for listening in self.sockets:
            await web.SockSite(runner, listening).start()
        await self._end.wait()
        await runner.cleanup()

    @staticmethod
    async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        """Refuse what does not come from the page, or comes without the token."""
        acts = request.method not in ("GET", "HEAD") or request.path == "/watch"
        origin = request.headers.get("Origin")
        if problem := self.access.problem(request.headers.get("Host", ""), origin, acts):
            # It quotes headers, which may hold bytes that are no text.
            return web.Response(status=403, text=problem.encode(errors="replace").decode() + "\n")
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        token = given if kind == "Bearer" else request.cookies.get(self.access.cookie)
        if request.path == "/" and "token" in request.query:
            token = request.query["token"]
        if not self.access.allows(token if self.access.token else ""):
            return web.Response(
                status=401,
                text="The token is missing or wrong: open the address that view_node has printed.\n",
            )
        return await handler(request)

    async def _page(self, _request: web.Request) -> web.Response:
        response = self._answer("page.html")
        if self.access.token:
            # The rest of the page, the stream and the buttons bring the token along by it. Other sites
            # cannot make the browser send it, and no script can read it.
            response.set_cookie(self.access.cookie, self.access.token, httponly=True, samesite="Strict")
        return response

    async def _file(self, request: web.Request) -> web.Response:
        if request.match_info["name"] not in FILES:
            raise web.HTTPNotFound(text="There is no such page.\n")
        return self._answer(request.match_info["name"])

    def _answer(self, name: str) -> web.Response:
        return web.Response(body=self._files[name], content_type=FILES[name], charset="utf-8")

    async def _press(self, request: web.Request) -> web.Response:
        """Press a button; answer what became of it."""
        pressed = self.press(request.match_info["button"])
        if pressed is None:
            raise web.HTTPNotFound(text="There is no such button.\n")
        try:
            done, sentence = await asyncio.wait_for(asyncio.wrap_future(pressed), ANSWERED_WITHIN)
        except asyncio.TimeoutError:
            done, sentence = False, f"no answer within {ANSWERED_WITHIN:g} s"
        return web.json_response({"done": done, "message": sentence})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Stream to one viewer, until it leaves or does not keep up at all."""
        if len(self._all) >= MOST_VIEWERS:
            return web.Response(status=503, text=f"{MOST_VIEWERS} viewers watch already: close a page.\n")
        # Not compressed: nearly all of it is JPEG and PNG, for each viewer anew.
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=1024, compress=False)
        await socket.prepare(request)
        viewer = Viewer(self._newest)
        self._count(joining=viewer)
        sender = asyncio.ensure_future(viewer.send(socket))
        sender.add_done_callback(lambda done: _disconnect(done, request))
        try:
            async for message in socket:  # the browser has shown the last batch
                if message.type is not WSMsgType.TEXT:
                    break
                viewer.shown.set()
        finally:
            sender.cancel()
            self._count(leaving=viewer)
        return socket

    def _count(self, joining: Viewer | None = None, leaving: Viewer | None = None) -> None:
        """Note who watches, and tell when that becomes, or is no longer, anybody."""
        before = self.viewers
        self._all = (self._all | {joining}) - {leaving, None}
        self.viewers = len(self._all)
        if not self._all:
            self._newest.clear()
        if bool(before) != bool(self.viewers):
            self.watched()


def _disconnect(sender: asyncio.Future, request: web.Request) -> None:
    """Break the connection of a viewer that nothing more can be sent to."""
    if not sender.cancelled():
        sender.exception()  # the time is over, or the connection is lost
        if request.transport is not None:
            request.transport.abort()
