"""The Python library `realtime`, driven against the built server.

In comes the binary (REALTIME_BIN, or what cargo built last), out come unittest results. Nothing here sleeps but to look
again at a state that the library does not report; every wait has a limit.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request

from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"
# How long the library waits for an answer; a test waits longer, so that it hears what the library says.
LIBRARY_TIMEOUT_S = 30
TIMEOUT_S = 45
ROOT = pathlib.Path(__file__).resolve().parents[2]


def binary() -> str:
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    candidates = [os.environ.get("REALTIME_BIN"), target / "debug/realtime", target / "release/realtime"]
    for path in candidates:
        if path and pathlib.Path(path).exists():
            return str(path)
    raise RuntimeError("no server to test: run `cargo build`, or set REALTIME_BIN")


def token(role: str = "authenticated", seconds: int = 3600, **more: str) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"role": role, "exp": int(time.time()) + seconds, **more}
    message = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    signature = hmac.new(SECRET.encode(), message.encode(), hashlib.sha256).digest()
    return f"{message}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def free_port() -> int:
    """A free port below the range that the kernel gives to outgoing connections: one of those could take it during a restart."""
    while True:
        port = random.randrange(20_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


class Server:
    """A server on a port of its own; `restart` keeps the port."""

    def __init__(self, env: dict[str, str] | None = None, tenants: list[dict] | None = None) -> None:
        self.env = dict(env or {})
        self.folder = tempfile.TemporaryDirectory(prefix="realtime-python-")
        if tenants is not None:
            self.env["EMBEDDED_TENANTS"] = os.path.join(self.folder.name, "tenants.json")
            pathlib.Path(self.env["EMBEDDED_TENANTS"]).write_text(json.dumps(tenants))
        # The port was free a moment ago; another process may take it before the server does.
        for last in (False, False, True):
            self.port = free_port()
            try:
                return self.run()
            except RuntimeError:
                if last:
                    raise

    def run(self) -> None:
        own = {
            "PORT": str(self.port),
            "SHARDS": "2",
            "DATA_DIR": os.path.join(self.folder.name, "data"),
            "API_JWT_SECRET": SECRET,
            "SELF_HOST_TENANT_NAME": "realtime-dev",
        }
        self.log = open(os.path.join(self.folder.name, "log"), "ab")
        env = {"PATH": os.environ["PATH"], **own, **self.env}
        self.child = subprocess.Popen([binary()], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log)
        # Ends with the line, or with the process.
        if not any(b"listening on" in line for line in self.child.stdout):
            self.stop(signal.SIGKILL)
            raise RuntimeError(pathlib.Path(self.log.name).read_text())
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthcheck", timeout=TIMEOUT_S) as answer:
                assert answer.status == 200
        except OSError as error:
            ended = self.child.poll()
            self.stop(signal.SIGKILL)
            log = pathlib.Path(self.log.name).read_text()
            raise RuntimeError(f"no health ({error}); the process {ended=} said: {log}") from error

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.child.send_signal(how)
        self.child.wait(TIMEOUT_S)
        self.child.stdout.close()
        self.log.close()

    def dispose(self) -> None:
        self.stop(signal.SIGKILL)
        self.folder.cleanup()

    def restart(self) -> None:
        self.stop()
        self.run()


class Client:
    """A connected client and what its channels heard."""

    def __init__(self, server: Server, apikey: str | None = None) -> None:
        url = f"ws://localhost:{server.port}/socket"
        self.realtime = AsyncRealtimeClient(url, apikey or token(), initial_backoff=0.3, max_retries=50, timeout=LIBRARY_TIMEOUT_S)

    async def join(self, topic: str, config: dict | None = None):
        """A joined channel with `heard`, `states` and `systems` queues."""
        defaults = {"broadcast": {"ack": False, "self": False}, "presence": {"key": "", "enabled": False}, "private": False}
        channel = self.realtime.channel(topic, {"config": {**defaults, **(config or {})}})
        channel.heard, channel.states, channel.systems = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
        channel.on_broadcast("e", channel.heard.put_nowait)
        channel.on_system(channel.systems.put_nowait)
        await channel.subscribe(lambda state, error: channel.states.put_nowait((state, error)))
        return channel


async def soon(queue: asyncio.Queue, seconds: float = TIMEOUT_S):
    return await asyncio.wait_for(queue.get(), seconds)


async def eventually(condition, what: str) -> None:
    """Looks again until the library's state is as wanted."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        await asyncio.sleep(0.02)


class Python(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server()
        cls.addClassCleanup(cls.server.dispose)

    async def client(self, apikey: str | None = None) -> Client:
        client = Client(self.server, apikey)
        await client.realtime.connect()
        self.addAsyncCleanup(client.realtime.close)
        return client

    async def joined(self, channel) -> None:
        state, error = await soon(channel.states)
        self.assertEqual(state, RealtimeSubscribeStates.SUBSCRIBED, error)

    async def test_what_one_client_sends_the_others_receive(self) -> None:
        channels = [await (await self.client()).join("py-broadcast") for _ in range(3)]
        for channel in channels:
            await self.joined(channel)
        data = {"text": "é 😀", "list": [1, None, 1.5], "deep": {"a": {}}}
        await channels[0].send_broadcast("e", data)
        for channel in channels[1:]:
            self.assertEqual((await soon(channel.heard))["payload"], data)
        await channels[1].send_broadcast("e", {"back": 1})
        self.assertEqual((await soon(channels[0].heard))["payload"], {"back": 1})

    async def test_self_is_heard_when_asked_for(self) -> None:
        channel = await (await self.client()).join("py-self", {"broadcast": {"ack": True, "self": True}})
        await self.joined(channel)
        for n in range(10):
            await channel.send_broadcast("e", {"n": n})
            self.assertEqual((await soon(channel.heard))["payload"], {"n": n})

    async def test_presence_is_synchronized_and_ends_with_the_connection(self) -> None:
        one, two = await self.client(), await self.client()
        presence = {"presence": {"key": "a", "enabled": True}}
        a = await one.join("py-presence", presence)
        b = await two.join("py-presence", {"presence": {"key": "b", "enabled": True}})
        for channel in (a, b):
            await self.joined(channel)
        await a.track({"name": "Ann"})
        await b.track({"name": "Bob"})
        for channel in (a, b):
            await eventually(lambda: set(channel.presence_state()) == {"a", "b"}, "both to be here")
        self.assertEqual(a.presence_state()["b"][0]["name"], "Bob")
        two.realtime.auto_reconnect = False
        # Cut: no close frame is sent.
        two.realtime._ws_connection.transport.abort()
        await eventually(lambda: set(a.presence_state()) == {"a"}, "the cut of a connection")
        await a.untrack()
        await eventually(lambda: not a.presence_state(), "the untrack")

    async def test_a_refreshed_token_keeps_its_channel_until_it_expires(self) -> None:
        client = await self.client()
        await client.realtime.set_auth(token(seconds=10))
        channel = await client.join("py-token")
        await self.joined(channel)
        await client.realtime.set_auth(token(seconds=20))
        start = time.monotonic()
        # The library takes a system message with status error for an error of the channel, then sees its end.
        state, error = await soon(channel.states)
        self.assertEqual(state, RealtimeSubscribeStates.CHANNEL_ERROR)
        self.assertRegex(str(error), r"Token has expired \d seconds ago")
        state, _ = await soon(channel.states)
        self.assertEqual(state, RealtimeSubscribeStates.CLOSED)
        self.assertGreater(time.monotonic() - start, 12)

    async def test_a_private_channel_says_that_there_is_no_database(self) -> None:
        channel = await (await self.client()).join("py-private", {"private": True})
        state, error = await soon(channel.states)
        self.assertEqual(state, RealtimeSubscribeStates.CHANNEL_ERROR)
        self.assertIn("UnableToConnectToProject: Realtime was unable to connect to the project database", str(error))

    async def test_http_send_reaches_the_members(self) -> None:
        client = await self.client()
        channel = await client.join("py http")
        await self.joined(channel)
        sender = Client(self.server).realtime.channel("py http")
        await sender.http_send("e", {"a": [1, "é"]})
        self.assertEqual((await soon(channel.heard))["payload"], {"a": [1, "é"]})

    async def test_leaving_one_channel_leaves_the_other_alone(self) -> None:
        client, other = await self.client(), await self.client()
        stays, goes = await client.join("py-stays"), await client.join("py-goes")
        sender = await other.join("py-stays")
        for channel in (stays, goes, sender):
            await self.joined(channel)
        await goes.unsubscribe()
        await sender.send_broadcast("e", {"a": 1})
        self.assertEqual((await soon(stays.heard))["payload"], {"a": 1})


class PythonAcrossARestart(unittest.IsolatedAsyncioTestCase):
    async def test_a_channel_rejoins_by_itself(self) -> None:
        server = Server()
        self.addCleanup(server.dispose)
        clients = [Client(server), Client(server)]
        channels = []
        for client in clients:
            await client.realtime.connect()
            self.addAsyncCleanup(client.realtime.close)
            channels.append(await client.join("py-restart"))
        for channel in channels:
            state, error = await soon(channel.states)
            self.assertEqual(state, RealtimeSubscribeStates.SUBSCRIBED, error)
        await asyncio.to_thread(server.restart)
        for channel in channels:
            while (await soon(channel.states, 120))[0] != RealtimeSubscribeStates.SUBSCRIBED:
                pass
        await channels[0].send_broadcast("e", {"after": True})
        self.assertEqual((await soon(channels[1].heard))["payload"], {"after": True})


if __name__ == "__main__":
    unittest.main()
