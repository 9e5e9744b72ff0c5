"""Private channels through the Python library, against a real PostgreSQL: policies by auth.uid(), broadcasts of the database.

The cluster is started by tests/database/cluster, which stops it when this process ends.
"""

import json
import pathlib
import subprocess
import unittest
import urllib.request
import uuid

from realtime import RealtimeSubscribeStates

from test_python import ROOT, SECRET, TIMEOUT_S, Client, Server, soon, token


class Postgres:
    """A cluster with one database, which holds what a Supabase project's does."""

    def __init__(self) -> None:
        script = ROOT / "tests/database/cluster"
        pipe = subprocess.PIPE
        self.script = subprocess.Popen([script, "supabase_admin"], stdin=pipe, stdout=pipe, text=True)
        _, self.port, self.folder, self.bin = self.answer("ready")
        print("project app", file=self.script.stdin, flush=True)
        self.answer("project")

    def answer(self, expected: str) -> list[str]:
        words = self.script.stdout.readline().split()
        assert words and words[0] == expected, f"PostgreSQL said {words}"
        return words

    def sql(self, text: str) -> str:
        where = ["-h", self.folder, "-p", self.port, "-U", "supabase_admin", "-d", "app"]
        command = [f"{self.bin}/psql", *where, "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1"]
        return subprocess.run(command, input=text, text=True, check=True, capture_output=True).stdout.strip()

    def tenant(self, external_id: str) -> dict:
        settings = {
            "db_host": "127.0.0.1",
            "db_port": self.port,
            "db_name": "app",
            "db_user": "supabase_admin",
            "db_password": "postgres",
            "region": "local",
            "ssl_enforced": False,
        }
        extensions = [{"type": "postgres_cdc_rls", "settings": settings}]
        return {"external_id": external_id, "name": external_id, "jwt_secret": SECRET, "extensions": extensions}

    def stop(self) -> None:
        self.script.stdin.close()
        self.script.wait(TIMEOUT_S)
        self.script.stdout.close()


def start_server(postgres: Postgres) -> Server:
    """A server whose tenant has the database, with the objects of project.sql."""
    server = Server({"CHANNEL_ERROR_BACKOFF_MS": "50"}, [postgres.tenant("realtime-dev")])
    # A private message makes the server ask the database, in which it makes its schema first.
    message = {"messages": [{"topic": "t", "event": "e", "payload": {}, "private": True}]}
    headers = {"authorization": f"Bearer {token('service_role')}", "content-type": "application/json"}
    url = f"http://127.0.0.1:{server.port}/api/broadcast"
    request = urllib.request.Request(url, json.dumps(message).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert answer.status == 202
    postgres.sql(pathlib.Path(__file__).with_name("project.sql").read_text())
    return server


class PythonPrivate(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.stop)
        cls.server = start_server(cls.postgres)
        cls.addClassCleanup(cls.server.dispose)

    async def signed_in(self, user: str) -> Client:
        client = Client(self.server, token("anon"))
        await client.realtime.connect()
        self.addAsyncCleanup(client.realtime.close)
        await client.realtime.set_auth(token("authenticated", sub=user))
        return client

    async def joined(self, channel) -> None:
        state, error = await soon(channel.states)
        self.assertEqual(state, RealtimeSubscribeStates.SUBSCRIBED, error)

    async def test_a_topic_is_its_owners(self) -> None:
        user = str(uuid.uuid4())
        config = {"private": True, "broadcast": {"ack": False, "self": True}}
        stranger = await self.signed_in(str(uuid.uuid4()))
        refused = await stranger.join(f"user:{user}", config)
        state, error = await soon(refused.states)
        self.assertEqual(state, RealtimeSubscribeStates.CHANNEL_ERROR)
        text = f"Unauthorized: You do not have permissions to read from this Channel topic: user:{user}"
        self.assertIn(text, str(error))
        channel = await (await self.signed_in(user)).join(f"user:{user}", config)
        await self.joined(channel)
        await channel.send_broadcast("e", {"n": 1})
        self.assertEqual((await soon(channel.heard))["payload"], {"n": 1})

    async def test_a_broadcast_of_the_database_arrives(self) -> None:
        user = str(uuid.uuid4())
        config = {"private": True, "broadcast": {"ack": False, "self": False, "replication_ready": True}}
        channel = await (await self.signed_in(user)).join(f"user:{user}", config)
        await self.joined(channel)
        system = await soon(channel.systems, 90)
        self.assertEqual(system.message, "Replication connection established", system)
        self.postgres.sql(f"""select realtime.send('{{"n": 2}}', 'e', 'user:{user}', true)""")
        heard = await soon(channel.heard)
        self.assertEqual(heard["payload"]["n"], 2)
        self.assertEqual(heard["meta"], {"id": heard["payload"]["id"]})

    async def test_a_replay_brings_what_was_sent_before(self) -> None:
        user = str(uuid.uuid4())
        streamed = {"private": True, "broadcast": {"ack": False, "self": False, "replication_ready": True}}
        witness = await (await self.signed_in(user)).join(f"user:{user}", streamed)
        await self.joined(witness)
        await soon(witness.systems, 90)
        self.postgres.sql(f"""select realtime.send('{{"n": 3}}', 'e', 'user:{user}', true)""")
        # Whoever is there hears it from the stream. Once that is over it is the past, and comes to a new member by replay only.
        await soon(witness.heard)
        since = int(self.postgres.sql("select (extract(epoch from now() - interval '1 minute') * 1000)::bigint"))
        config = {"private": True, "broadcast": {"ack": False, "self": False, "replay": {"since": since, "limit": 5}}}
        channel = await (await self.signed_in(user)).join(f"user:{user}", config)
        await self.joined(channel)
        heard = await soon(channel.heard)
        self.assertEqual((heard["payload"]["n"], heard["meta"]["replayed"]), (3, True))

    async def test_http_send_needs_the_permission_to_write(self) -> None:
        user = str(uuid.uuid4())
        config = {"private": True, "broadcast": {"ack": False, "self": False}}
        member = await self.signed_in(user)
        channel = await member.join(f"user:{user}", config)
        await self.joined(channel)
        stranger = await self.signed_in(str(uuid.uuid4()))
        with self.assertRaisesRegex(Exception, "Unauthorized"):
            await stranger.realtime.channel(f"user:{user}", {"config": config}).http_send("e", {"lost": True})
        sender = await self.signed_in(user)
        await sender.realtime.channel(f"user:{user}", {"config": config}).http_send("e", {"heard": True})
        self.assertEqual((await soon(channel.heard))["payload"], {"heard": True})


if __name__ == "__main__":
    unittest.main()
