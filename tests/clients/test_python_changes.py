"""Postgres Changes through the Python library, against a real PostgreSQL.

The end of what a test looks at is a row of the table `probes`: changes come in commit order.
"""

import asyncio
import itertools
import pathlib
import unittest
import uuid

from realtime import RealtimeSubscribeStates

from test_python import Client, soon, token
from test_python_private import Postgres, start_server

PROBES = itertools.count(1)


class Watched:
    """A channel whose changes are looked at; a binding is what `on` takes: table, filter, event, schema, select."""

    def __init__(self, client: Client, topic: str, config: dict | None = None) -> None:
        defaults = {"broadcast": {"ack": False, "self": False}, "presence": {"key": "", "enabled": False}, "private": False}
        self.channel = client.realtime.channel(topic, {"config": {**defaults, **(config or {})}})
        self.heard, self.states, self.systems = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
        self.channel.on_broadcast("e", self.heard.put_nowait)
        self.channel.on_system(self.systems.put_nowait)
        self.ends = asyncio.Queue()
        self.channel.on_postgres_changes("*", self.ends.put_nowait, table="probes")

    def on(self, table: str, event: str = "*", **binding) -> list:
        """The list that this binding's changes are added to."""
        changes: list = []
        self.channel.on_postgres_changes(event, lambda payload: changes.append(payload["data"]), table=table, **binding)
        return changes

    async def subscribe(self) -> "Watched":
        await self.channel.subscribe(lambda state, error: self.states.put_nowait((state, error)))
        state, error = await soon(self.states)
        assert state == RealtimeSubscribeStates.SUBSCRIBED, error
        await self.subscribed()
        return self

    async def subscribed(self) -> None:
        told = await soon(self.systems, 60)
        assert told.message == "Subscribed to PostgreSQL", told


class PythonChanges(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.stop)
        cls.server = start_server(cls.postgres)
        cls.addClassCleanup(cls.server.dispose)
        cls.postgres.sql(pathlib.Path(__file__).with_name("changes.sql").read_text())

    async def client(self, user: str | None = None, role: str = "authenticated") -> Client:
        client = Client(self.server, token("anon"))
        await client.realtime.connect()
        self.addAsyncCleanup(client.realtime.close)
        await client.realtime.set_auth(token(role, sub=user or str(uuid.uuid4())))
        return client

    async def settled(self, *all_watched: Watched) -> None:
        """Everything that was committed so far has arrived at these channels."""
        probe = next(PROBES)
        self.postgres.sql(f"insert into public.probes values ({probe})")
        for watched in all_watched:
            while (await soon(watched.ends))["data"]["record"]["id"] != probe:
                pass

    async def test_a_row_is_inserted_updated_and_deleted(self) -> None:
        watched = Watched(await self.client(), "py changes")
        changes = watched.on("items")
        inserts = watched.on("items", event="INSERT")
        await watched.subscribe()
        row = int(self.postgres.sql("insert into public.items (name, amount) values ('tea', 1.50) returning id"))
        self.postgres.sql(f"update public.items set amount = 2 where id = {row}; delete from public.items where id = {row}")
        await self.settled(watched)
        columns = [("id", "int8"), ("name", "text"), ("amount", "numeric"), ("is_done", "bool")]
        for change in changes:
            self.assertRegex(change.pop("commit_timestamp"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual(change.pop("columns"), [{"name": name, "type": kind} for name, kind in columns])
        common = {"schema": "public", "table": "items", "errors": None}
        tea = {"id": row, "name": "tea", "amount": 1.5, "is_done": None}
        expected = [
            {**common, "type": "INSERT", "record": tea},
            {**common, "type": "UPDATE", "record": {**tea, "amount": 2}, "old_record": {"id": row}},
            {**common, "type": "DELETE", "old_record": {"id": row}},
        ]
        self.assertEqual(changes, expected)
        self.assertEqual([change["type"] for change in inserts], ["INSERT"])

    async def test_filters_and_selected_columns(self) -> None:
        watched = Watched(await self.client(), "py filters")
        expected = {"name=eq.tea": ["tea"], "amount=gte.2": ["mate"], "name=not.in.(tea)": ["mate"], "name=like.%a%,amount=lt.2": ["tea"]}
        changes = {names: watched.on("items", filter=names) for names in expected}
        selected = watched.on("items", select=["amount"])
        whole = watched.on("*")
        await watched.subscribe()
        self.postgres.sql("insert into public.items (name, amount) values ('tea', 1), ('mate', 2), (null, null)")
        await self.settled(watched)
        self.assertEqual({filter: [row["record"]["name"] for row in rows] for filter, rows in changes.items()}, expected)
        self.assertEqual([sorted(row["record"]) for row in selected], [["amount", "id"]] * 3)
        self.assertEqual([row["table"] for row in whole], ["items"] * 3 + ["probes"])

    async def test_everybody_gets_what_they_may_see(self) -> None:
        users = [str(uuid.uuid4()) for _ in range(2)]
        members = [Watched(await self.client(user), "py letters") for user in users]
        letters = [member.on("letters") for member in members]
        for member in members:
            await member.subscribe()
        rows = [self.postgres.sql(f"insert into public.letters (owner, text) values ('{user}', 'to {user}') returning id") for user in users]
        await self.settled(*members)
        self.assertEqual([[row["record"]["text"] for row in heard] for heard in letters], [[f"to {user}"] for user in users])
        self.postgres.sql(f"delete from public.letters where id in ({','.join(rows)})")
        await self.settled(*members)
        for heard in letters:
            self.assertEqual([row["old_record"] for row in heard[1:]], [{"id": int(row)} for row in rows])

    async def test_broadcast_presence_and_changes_share_a_channel(self) -> None:
        config = {"broadcast": {"ack": False, "self": True}, "presence": {"key": "me", "enabled": True}}
        watched = Watched(await self.client(), "py together", config)
        changes = watched.on("items")
        joins: asyncio.Queue = asyncio.Queue()
        watched.channel.on_presence_join(lambda key, _, __: joins.put_nowait(key))
        await watched.subscribe()
        await watched.channel.track({"name": "Ann"})
        await watched.channel.send_broadcast("e", {"n": 1})
        self.postgres.sql("insert into public.items (name) values ('tea')")
        await self.settled(watched)
        self.assertEqual((await soon(watched.heard))["payload"], {"n": 1})
        self.assertEqual(await soon(joins), "me")
        self.assertEqual([row["record"]["name"] for row in changes], ["tea"])

    async def test_a_new_token_brings_what_its_user_may_see(self) -> None:
        users = [str(uuid.uuid4()) for _ in range(2)]
        client = await self.client(users[0])
        watched = Watched(client, "py token")
        letters = watched.on("letters")
        await watched.subscribe()
        await client.realtime.set_auth(token(sub=users[1]))
        await watched.subscribed()
        self.postgres.sql("insert into public.letters (owner, text) values " + ", ".join(f"('{user}', '{user}')" for user in users))
        await self.settled(watched)
        self.assertEqual([row["record"]["text"] for row in letters], [users[1]])

    async def test_a_table_that_is_not_published_is_an_error(self) -> None:
        watched = Watched(await self.client(), "py error")
        watched.on("unpublished")
        await watched.channel.subscribe(lambda state, error: watched.states.put_nowait((state, error)))
        state, error = await soon(watched.states)
        self.assertEqual(state, RealtimeSubscribeStates.SUBSCRIBED, error)
        state, error = await soon(watched.states)
        self.assertEqual(state, RealtimeSubscribeStates.CHANNEL_ERROR)
        text = "Please check Realtime is enabled for the given connect parameters: [event: *, schema: public, table: unpublished, filters: [], select: nil]"
        self.assertIn(text, str(error))

    async def test_a_channel_that_was_left_gets_nothing_and_its_neighbour_does(self) -> None:
        client = await self.client()
        gone, stays = Watched(client, "py gone"), Watched(client, "py stays")
        lists = [watched.on("items") for watched in (gone, stays)]
        for watched in (gone, stays):
            await watched.subscribe()
        await gone.channel.unsubscribe()
        self.postgres.sql("insert into public.items (name) values ('tea')")
        await self.settled(stays)
        self.assertEqual([[row["record"]["name"] for row in rows] for rows in lists], [[], ["tea"]])

    async def test_changes_come_again_after_a_restart(self) -> None:
        watched = Watched(await self.client(), "py restart")
        changes = watched.on("items")
        await watched.subscribe()
        await asyncio.to_thread(self.server.restart)
        while (await soon(watched.states, 60))[0] != RealtimeSubscribeStates.SUBSCRIBED:
            pass
        await watched.subscribed()
        self.postgres.sql("insert into public.items (name) values ('tea')")
        await self.settled(watched)
        self.assertEqual([row["record"]["name"] for row in changes], ["tea"])


if __name__ == "__main__":
    unittest.main()
