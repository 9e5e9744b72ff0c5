// A PostgreSQL for the tests that need one: a cluster of their own with a database `app`, which holds what a Supabase project's
// does; more of them can be made. It is started by tests/database/cluster, and gone with this process.

import { execFileSync, spawn } from 'node:child_process'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

import { within } from './support.js'

const SCRIPT = join(dirname(fileURLToPath(import.meta.url)), '../database/cluster')

export class Postgres {
  static async start() {
    const postgres = new Postgres()
    // The script stops the cluster at the end of its input.
    postgres.script = spawn(SCRIPT, ['supabase_admin'], { stdio: ['pipe', 'pipe', 'inherit'] })
    postgres.lines = createInterface({ input: postgres.script.stdout })[Symbol.asyncIterator]()
    const [ready, port, folder, bin] = await postgres.answer('PostgreSQL to start')
    if (ready !== 'ready') throw new Error('PostgreSQL does not start')
    Object.assign(postgres, { port, folder, bin })
    await postgres.project('app')
    return postgres
  }

  async answer(what) {
    return (await within(this.lines.next(), what, 120_000)).value?.split(' ') ?? []
  }

  /** Makes a database like a Supabase project's. */
  async project(name) {
    this.script.stdin.write(`project ${name}\n`)
    const [project] = await this.answer('the database')
    if (project !== 'project') throw new Error(`the database ${name} cannot be made`)
  }

  /** Runs statements as the superuser; what they select comes back as text, a line per row. */
  sql(text, database = 'app') {
    const where = ['-h', this.folder, '-p', this.port, '-U', 'supabase_admin', '-d', database]
    const options = ['-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1']
    return execFileSync(join(this.bin, 'psql'), [...where, ...options], { input: text, encoding: 'utf8' }).trim()
  }

  /** The attributes of a tenant that has this database. */
  tenant(externalId, secret, database = 'app') {
    const settings = {
      db_host: '127.0.0.1',
      db_port: this.port,
      db_name: database,
      db_user: 'supabase_admin',
      db_password: 'postgres',
      region: 'local',
      ssl_enforced: false,
    }
    const extensions = [{ type: 'postgres_cdc_rls', settings }]
    return { external_id: externalId, name: externalId, jwt_secret: secret, extensions }
  }

  async stop() {
    const ended = new Promise((resolve) => this.script.once('exit', resolve))
    this.script.stdin.end()
    await within(ended, 'PostgreSQL to stop')
  }
}
