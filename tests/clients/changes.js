// Postgres Changes for tests: channels that are watched, and the moment at which everything has arrived.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'

import { Inbox, Server, subscribe } from './support.js'

const TABLES = readFileSync(new URL('changes.sql', import.meta.url), 'utf8')
const SUBSCRIBED_MS = 60_000

/** A server whose tenant has the tables of changes.sql. */
export async function startWithTables(postgres) {
  const server = await Server.startWith(postgres)
  postgres.sql(TABLES)
  return server
}

/** Makes the tables of changes.sql in another database. */
export const makeTables = (postgres, database) => postgres.sql(TABLES, database)

/** A channel whose changes are looked at. */
export class Watched {
  constructor(channel) {
    this.channel = channel
    this.system = new Inbox()
    channel.on('system', {}, this.system.push)
    this.ends = this.on({ table: 'probes' })
  }

  /** The inbox of one binding: everything of schema public, if nothing else is said. */
  on(binding) {
    const inbox = new Inbox()
    this.channel.on('postgres_changes', { event: '*', schema: 'public', ...binding }, inbox.push)
    return inbox
  }

  /** Joined, and told that changes come from now on. */
  async subscribe() {
    this.states = await subscribe(this.channel)
    await this.subscribed()
    return this
  }

  /** The next message about the subscription says that it is there. */
  async subscribed() {
    const { status, message } = await this.told()
    assert.deepEqual([status, message], ['ok', 'Subscribed to PostgreSQL'])
  }

  /** The next message about the subscription. */
  told() {
    return this.system.next('word of the subscription', ({ extension }) => extension === 'postgres_changes', SUBSCRIBED_MS)
  }
}

/** A new channel of the client, watched; what is asked for, if anything, is the inbox `changes`. */
export function watch(client, topic, binding, config = {}) {
  const watched = new Watched(client.channel(topic, { config }))
  if (binding) watched.changes = watched.on(binding)
  return watched
}

let probes = 0

/** Everything that was committed so far has arrived at these channels. */
export async function settled(postgres, ...watched) {
  const id = ++probes
  postgres.sql(`insert into public.probes values (${id})`)
  for (const { ends } of watched) await ends.next(`probe ${id}`, (change) => change.new.id === id)
}

/** What has come to an inbox; it is empty again. */
export const take = (inbox) => inbox.items.splice(0)

/** The same in short: which row was changed how. */
export const takeNames = (inbox) => take(inbox).map(({ eventType, new: now, old }) => `${eventType} ${now.name ?? now.text ?? old.id}`)
