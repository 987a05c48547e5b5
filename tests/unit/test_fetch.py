"""What is fetched on behalf of users, from servers on loopback and a resolver that answers as attackers' would.

No address of the list below is ever connected to: each connection that is made is counted by the server it would reach.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import pytest

from services.errors import AkinError, ConfigurationError, FetchFailed, FetchQueued, FetchRefused, TooLarge
from services.fetch.addresses import AllowList, is_public
from services.fetch.client import Fetcher, Limits, Version
from services.fetch.guard import Guard

# Written in the address itself.
WRITTEN = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "127.0.0.1.",
    "0.0.0.0",
    "0",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "１２７.０.０.１",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:10.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[100::1]",
]
# What a name is resolved to.
RESOLVED: list[list[str]] = [
    ["127.0.0.1"],
    ["::1"],
    ["10.0.0.1"],
    ["169.254.169.254"],
    ["::ffff:169.254.169.254"],
    ["fd00:ec2::254"],
    ["0.0.0.0"],
    ["fe80::1%lo"],
    ["93.184.215.14", "127.0.0.1"],
    ["127.0.0.1", "93.184.215.14"],
    ["2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::1"],
    ["100.100.100.200"],
]
NO_WEB_ADDRESSES = [
    "file:///etc/passwd",
    "ftp://shop.example/a.jpg",
    "gopher://shop.example/",
    "data:image/png;base64,AAAA",
    "jar:http://shop.example!/a",
    "//shop.example/a.jpg",
    "/a.jpg",
    "",
    "http://",
    "http:///a.jpg",
    "http://user:word@shop.example/a.jpg",
    "http://shop.example@127.0.0.1/a.jpg",
    "http://127.0.0.1\\@shop.example/a.jpg",
    "http://shop.example\\.internal/",
    "http://shop.example/a b.jpg",
    "http://shop.example/\r\nHost: internal",
    " http://shop.example/",
    "http://shop.example:99999/",
    "http://shop.example:0/",
    "http://shop%2eexample/",
    "http://[::1/",
    "http://" + "a" * 9000,
]

Handler = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A web server on loopback that answers by path and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Handler] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.busy = self.busiest = 0
        self._lock = threading.Lock()
        outer = self

        class Request(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                with outer._lock:
                    outer.asked.append((self.path, dict(self.headers)))
                    outer.busy += 1
                    outer.busiest = max(outer.busiest, outer.busy)
                try:
                    outer.answers.get(self.path, answer(404))(self)
                finally:
                    with outer._lock:
                        outer.busy -= 1

            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that go away are what some of the tests are about."""

        self._http = Quiet(("127.0.0.1", 0), Request)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def answer(status: int = 200, content: bytes = b"", headers: Mapping[str, str] | None = None) -> Handler:
    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    return handle


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def inner() -> Iterator[Server]:
    """What nobody may reach."""
    running = Server()
    running.answers["/"] = answer(content=b"secret")
    yield running
    assert running.asked == []
    assert running.connections == 0
    running.close()


def fetcher(allowed: Sequence[str] = (), names: Mapping[str, Sequence[str]] | None = None, **limits: float) -> Fetcher:
    """One that knows these names only."""

    def resolver(host: str, port: int) -> Sequence[str]:
        if host not in (names or {}):
            raise OSError("no such name")
        return (names or {})[host]

    return Fetcher(Guard(allowed, resolver), Limits(**limits))  # type: ignore[arg-type]


def shop(server: Server, **limits: float) -> tuple[Fetcher, str]:
    """A fetcher that may reach the server by the name of a shop, and the shop's address."""
    host = f"shop.example:{server.port}"
    return fetcher([host], {"shop.example": ["127.0.0.1"]}, **limits), f"http://{host}"


class TestRefused:
    @pytest.mark.parametrize("host", WRITTEN)
    def test_addresses_that_are_not_public(self, inner: Server, host: str) -> None:
        with pytest.raises(FetchRefused):
            fetcher().get(f"http://{host}:{inner.port}/", max_bytes=100)

    @pytest.mark.parametrize("addresses", RESOLVED, ids=" ".join)
    def test_names_of_them(self, inner: Server, addresses: list[str]) -> None:
        with pytest.raises(FetchRefused, match=r"shop\.example is not a public address"):
            fetcher(names={"shop.example": addresses}).get(f"http://shop.example:{inner.port}/", max_bytes=100)

    @pytest.mark.parametrize("host", WRITTEN)
    def test_redirects_to_them(self, server: Server, inner: Server, host: str) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(302, headers={"Location": f"http://{host}:{inner.port}/"})

        with pytest.raises((FetchRefused, FetchFailed)) as refused:
            client.get(url + "/", max_bytes=100)

        assert isinstance(refused.value, FetchRefused) or not host.isascii()  # no header has such characters

    @pytest.mark.parametrize("addresses", RESOLVED, ids=" ".join)
    def test_redirects_to_names_of_them(self, server: Server, inner: Server, addresses: list[str]) -> None:
        allowed = f"shop.example:{server.port}"
        client = fetcher([allowed], {"shop.example": ["127.0.0.1"], "other.example": addresses})
        server.answers["/"] = answer(307, headers={"Location": "/further"})
        server.answers["/further"] = answer(301, headers={"Location": f"//other.example:{inner.port}/"})

        with pytest.raises(FetchRefused, match=r"other\.example is not a public address"):
            client.get(f"http://{allowed}/", max_bytes=100)
        assert [path for path, _ in server.asked] == ["/", "/further"]

    @pytest.mark.parametrize("url", NO_WEB_ADDRESSES)
    def test_what_is_no_web_address(self, url: str) -> None:
        with pytest.raises(FetchRefused):
            fetcher().get(url, max_bytes=100)

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "http://a b/", "gopher://shop.example/", "http://u:p@shop/"])
    def test_redirects_to_it(self, server: Server, url: str) -> None:
        client, start = shop(server)
        server.answers["/"] = answer(302, headers={"Location": url})

        with pytest.raises(FetchRefused):
            client.get(start + "/", max_bytes=100)

    def test_a_name_that_changes_its_address_after_it_was_checked(self, inner: Server) -> None:
        """DNS rebinding: a second look at the name would lead inside."""
        answers = [["192.0.2.77"], ["127.0.0.1"], ["127.0.0.1"]]
        asked = []

        def resolver(host: str, port: int) -> Sequence[str]:
            asked.append(host)
            return answers[min(len(asked), len(answers)) - 1]

        # The first address counts as public here, and nothing answers there.
        client = Fetcher(Guard(["192.0.2.0/24"], resolver), Limits(seconds=0.5))

        with pytest.raises(FetchFailed):
            client.get(f"http://shop.example:{inner.port}/", max_bytes=100)
        assert asked == ["shop.example"]

    def test_a_later_connection_is_checked_again(self, server: Server) -> None:
        answers = [["127.0.0.1"], ["127.0.0.2"]]
        client = Fetcher(Guard(["127.0.0.1/32"], lambda *_: answers.pop(0)))
        server.answers["/"] = answer(content=b"one", headers={"Connection": "close"})

        assert client.get(f"http://shop.example:{server.port}/", max_bytes=100)
        with pytest.raises(FetchRefused):
            client.get(f"http://shop.example:{server.port}/", max_bytes=100)

    def test_a_message_names_no_address(self) -> None:
        with pytest.raises(FetchRefused) as refused:
            fetcher(names={"shop.example": ["10.1.2.3"]}).get("http://shop.example/", max_bytes=1)
        assert "10.1.2.3" not in str(refused.value)

    def test_what_is_posted_goes_the_same_way(self, inner: Server) -> None:
        with pytest.raises(FetchRefused):
            fetcher().post(f"http://127.0.0.1:{inner.port}/", b"{}", {})

    def test_proxies_of_the_environment_are_not_asked(self, inner: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{inner.port}")

        with pytest.raises(FetchFailed):
            fetcher(["192.0.2.0/24"], {"shop.example": ["192.0.2.1"]}, seconds=0.3).get(
                "http://shop.example/", max_bytes=1
            )


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_hosts_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


class TestAllowed:
    @pytest.mark.parametrize("entry", ["shop.example", "SHOP.example.", "127.0.0.1", "127.0.0.0/8"])
    def test_private_hosts_that_the_configuration_names(self, server: Server, entry: str) -> None:
        server.answers["/"] = answer(content=b"picture")
        client = fetcher([entry], {"shop.example": ["127.0.0.1"]})

        fetched = client.get(f"http://Shop.Example:{server.port}/", max_bytes=100)

        assert fetched is not None and fetched.content == b"picture"

    def test_a_port_is_allowed_alone(self, server: Server, inner: Server) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(302, headers={"Location": f"http://shop.example:{inner.port}/"})

        with pytest.raises(FetchRefused):
            client.get(url + "/", max_bytes=100)

    @pytest.mark.parametrize("entry", ["http://shop.example", "10.0.0.0/99", "*.example", "", "a b"])
    def test_an_entry_that_names_no_host_is_told(self, entry: str) -> None:
        with pytest.raises(ConfigurationError, match="is no host to allow"):
            AllowList([entry])


class TestFetched:
    def test_relative_redirects_are_followed_up_to_a_limit(self, server: Server) -> None:
        client, url = shop(server, redirects=3)
        for number in range(5):
            server.answers[f"/{number}"] = answer(302, headers={"Location": f"/{number + 1}"})
        server.answers["/5"] = answer(content=b"picture")

        fetched = client.get(url + "/2", max_bytes=100)
        assert fetched is not None and fetched.content == b"picture"
        with pytest.raises(FetchFailed, match="redirects more than 3 times"):
            client.get(url + "/1", max_bytes=100)

    def test_nothing_secret_is_sent(self, server: Server) -> None:
        client, url = shop(server)
        server.answers["/a"] = answer(302, headers={"Location": "/b", "Set-Cookie": "session=1"})
        server.answers["/b"] = answer(content=b"x")

        client.get(url + "/a#part", max_bytes=100)

        for _, headers in server.asked:
            assert headers.keys() == {"Host", "User-Agent", "Accept", "Accept-Encoding"}

    @pytest.mark.parametrize("told", [True, False], ids=["told before", "not told"])
    def test_a_file_that_is_too_large_is_not_read_to_its_end(self, server: Server, told: bool) -> None:
        client, url = shop(server)
        sent = []

        def endless(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            if told:
                request.send_header("Content-Length", str(10**12))
            else:
                request.send_header("Connection", "close")
            request.end_headers()
            try:
                for _ in range(10_000):
                    request.wfile.write(b"x" * 65_536)
                    sent.append(65_536)
            except OSError:
                pass
            request.close_connection = True

        server.answers["/"] = endless

        with pytest.raises(TooLarge, match="1,000 are allowed"):
            client.get(url + "/", max_bytes=1_000)
        client.close()
        time.sleep(0.2)
        assert sum(sent) < 100 * 1024**2

    def test_a_server_that_dribbles_is_given_up_at_the_deadline(self, server: Server) -> None:
        """Each byte comes within any timeout between bytes."""
        client, url = shop(server, seconds=0.6)

        def dribble(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            try:
                for _ in range(100):
                    request.wfile.write(b"x")
                    time.sleep(0.05)
            except OSError:
                pass
            request.close_connection = True

        def dribble_headers(request: BaseHTTPRequestHandler) -> None:
            try:
                request.wfile.write(b"HTTP/1.1 200 OK\r\n")
                for number in range(100):
                    request.wfile.write(b"X-%d: 1\r\n" % number)
                    time.sleep(0.05)
            except OSError:
                pass
            request.close_connection = True

        server.answers["/"], server.answers["/headers"] = dribble, dribble_headers

        for path in ("/", "/headers"):
            started = time.monotonic()
            with pytest.raises(FetchFailed, match="too long"):
                client.get(url + path, max_bytes=10_000)
            assert time.monotonic() - started < 3

    def test_a_name_server_that_hangs_is_given_up_at_the_deadline(self) -> None:
        released = threading.Event()
        client = Fetcher(Guard(resolver=lambda *_: released.wait(30) and []), Limits(seconds=0.3))

        with pytest.raises(FetchFailed, match="not found in time"):
            client.get("http://shop.example/", max_bytes=100)
        released.set()

    def test_the_same_version_is_not_sent_again(self, server: Server) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(content=b"x", headers={"ETag": '"7"', "Last-Modified": "yesterday"})
        first = client.get(url + "/", max_bytes=100)
        server.answers["/"] = answer(304)

        assert first is not None and first.version == Version('"7"', "yesterday")
        assert client.get(url + "/", max_bytes=100, known=first.version) is None
        assert server.asked[-1][1]["If-None-Match"] == '"7"'
        client.get(url + "/", max_bytes=100, known=Version(None, "yesterday"))
        assert server.asked[-1][1]["If-Modified-Since"] == "yesterday"

    def test_not_modified_without_a_question_is_a_failure(self, server: Server) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(304)

        with pytest.raises(FetchFailed, match="status 304"):
            client.get(url + "/", max_bytes=100)

    @pytest.mark.parametrize(
        ("status", "passing"), [(404, False), (403, False), (410, False), (429, True), (503, True)]
    )
    def test_a_failure_says_whether_asking_again_may_help(self, server: Server, status: int, passing: bool) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(status)

        with pytest.raises(FetchFailed, match=f"shop.example answered with status {status}") as failed:
            client.get(url + "/", max_bytes=100)
        assert failed.value.passing is passing

    def test_a_compressed_file_was_not_asked_for(self, server: Server) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(content=b"x", headers={"Content-Encoding": "gzip"})

        with pytest.raises(FetchFailed, match="compressed"):
            client.get(url + "/", max_bytes=100)

    def test_what_is_no_http_is_a_failure_in_words(self, server: Server) -> None:
        client, url = shop(server)

        def nonsense(request: BaseHTTPRequestHandler) -> None:
            request.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            request.close_connection = True

        server.answers["/"] = nonsense

        with pytest.raises(FetchFailed, match="did not answer"):
            client.get(url + "/", max_bytes=100)

    def test_connections_are_kept_and_bounded_for_each_host(self, server: Server) -> None:
        client, url = shop(server, per_host=2)

        def slow(request: BaseHTTPRequestHandler) -> None:
            time.sleep(0.05)
            answer(content=b"x")(request)

        server.answers["/"] = slow
        failed: list[AkinError] = []

        def get() -> None:
            try:
                client.get(url + "/", max_bytes=100)
            except AkinError as error:
                failed.append(error)

        threads = [threading.Thread(target=get) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failed == []
        assert len(server.asked) == 12
        assert server.busiest == 2
        assert server.connections <= 4

    def test_the_wait_for_a_turn_is_not_the_servers_time(self, server: Server) -> None:
        client, url = shop(server, per_host=1, seconds=1.0)

        def slow(request: BaseHTTPRequestHandler) -> None:
            time.sleep(0.4)
            answer(content=b"x")(request)

        server.answers["/"] = slow

        with ThreadPoolExecutor(6) as pool:
            fetched = list(pool.map(lambda _: client.get(url + "/", max_bytes=100), range(6)))

        assert [one.content for one in fetched if one is not None] == [b"x"] * 6

    @pytest.mark.parametrize(("limits", "seconds"), [({"waiting": 0.3}, None), ({}, 0.3)], ids=["usual", "all"])
    def test_a_server_whose_turn_does_not_come_is_not_asked(
        self, server: Server, limits: dict[str, float], seconds: float | None
    ) -> None:
        client, url = shop(server, per_host=1, **limits)
        server.answers["/"] = answer(content=b"x")

        with client.download(url + "/", max_bytes=100) as first, ThreadPoolExecutor(1) as pool:
            assert first is not None

            def ask() -> None:
                with client.download(url + "/", max_bytes=100, seconds=seconds):
                    pass

            began = time.monotonic()
            with pytest.raises(FetchQueued):
                pool.submit(ask).result()
            assert time.monotonic() - began < 5

        assert len(server.asked) == 1

    def test_a_file_may_take_longer_to_arrive_than_the_answer_to_begin(self, server: Server) -> None:
        client, url = shop(server, seconds=0.5)

        def dribble(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", "10")
            request.end_headers()
            for _ in range(10):
                request.wfile.write(b"x")
                time.sleep(0.1)

        def late(request: BaseHTTPRequestHandler) -> None:
            time.sleep(1.0)
            answer(content=b"x")(request)

        server.answers["/"], server.answers["/late"] = dribble, late

        with client.download(url + "/", max_bytes=100, arriving=20.0) as download:
            assert download is not None and b"".join(download.chunks) == b"x" * 10
        with pytest.raises(FetchFailed, match="too long"), client.download(url + "/late", max_bytes=100, arriving=20.0):
            pass

    def test_a_download_arrives_in_pieces(self, server: Server) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(content=bytes(5_000_000))

        with client.download(url + "/", max_bytes=10**7) as download:
            assert download is not None
            sizes = [len(chunk) for chunk in download.chunks]
        assert sum(sizes) == 5_000_000
        assert max(sizes) <= 256 * 1024

    def test_posting_says_how_it_was_answered_and_follows_nothing(self, server: Server) -> None:
        client, url = shop(server)
        server.answers["/"] = answer(204)
        server.answers["/moved"] = answer(307, headers={"Location": "/"})

        assert client.post(url + "/", b'{"a": 1}', {"Content-Type": "application/json"}) == 204
        assert client.post(url + "/moved", b"{}", {}) == 307
        assert server.bodies == [b'{"a": 1}', b"{}"]
        assert server.asked[0][1]["Content-Type"] == "application/json"
