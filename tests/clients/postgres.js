// A PostgreSQL for tests with private channels: a cluster of their own with one database, which holds what a Supabase project's
// does. It is started by tests/database/cluster, and gone with this process.

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
    const lines = createInterface({ input: postgres.script.stdout })[Symbol.asyncIterator]()
    const answer = async (what) => (await within(lines.next(), what, 120_000)).value?.split(' ') ?? []
    const [ready, port, folder, bin] = await answer('PostgreSQL to start')
    if (ready !== 'ready') throw new Error('PostgreSQL does not start')
    Object.assign(postgres, { port, folder, bin })
    postgres.script.stdin.write('project app\n')
    const [project] = await answer('the database')
    if (project !== 'project') throw new Error('the database cannot be made')
    return postgres
  }

  /** Runs statements as the superuser; what they select comes back as text, a line per row. */
  sql(text) {
    const where = ['-h', this.folder, '-p', this.port, '-U', 'supabase_admin', '-d', 'app']
    const options = ['-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1']
    return execFileSync(join(this.bin, 'psql'), [...where, ...options], { input: text, encoding: 'utf8' }).trim()
  }

  /** The attributes of a tenant that has this database. */
  tenant(externalId, secret) {
    const settings = {
      db_host: '127.0.0.1',
      db_port: this.port,
      db_name: 'app',
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
