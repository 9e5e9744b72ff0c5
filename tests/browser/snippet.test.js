// The program that the inspector writes is run, as somebody would who pastes it: it joins the same channel as the page.

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { after, before } from 'node:test'

import { Pane, Server, inspector, scene, see, useBrowser, within } from './support.js'

const LIBRARIES = fileURLToPath(new URL('../clients/node_modules', import.meta.url))
/** Node 20 has no WebSocket of its own. */
const PREPARE = "import WebSocket from 'ws'\nglobalThis.WebSocket ??= WebSocket\n"

let server
let folder
useBrowser()
before(async () => {
  server = await Server.start({ API_JWT_SECRET: undefined })
  folder = mkdtempSync(join(tmpdir(), 'realtime-snippet-'))
  symlinkSync(LIBRARIES, join(folder, 'node_modules'))
  writeFileSync(join(folder, 'prepare.mjs'), PREPARE)
})
after(async () => {
  if (folder) rmSync(folder, { recursive: true, force: true })
  await server?.dispose()
})

/** A program while it runs: what it prints can be waited for. */
class Program {
  #output = ''
  #listeners = new Set()

  constructor(text) {
    writeFileSync(join(folder, 'snippet.mjs'), text)
    this.child = spawn(process.execPath, ['--import', './prepare.mjs', 'snippet.mjs'], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.on('data', (chunk) => {
        this.#output += chunk
        for (const listener of this.#listeners) listener()
      })
    }
    this.child.on('exit', () => {
      this.hasEnded = true
      for (const listener of this.#listeners) listener()
    })
  }

  /** Waits until it has printed this. */
  prints(pattern) {
    const printed = new Promise((resolve, reject) => {
      const look = () => {
        if (pattern.test(this.#output)) resolve()
        else if (this.hasEnded) reject(new Error(`the program ended without ${pattern}:\n${this.#output}`))
      }
      this.#listeners.add(look)
      look()
    })
    return within(printed, `${pattern} of the program`).catch((error) => {
      error.message += `\nIt printed:\n${this.#output}`
      throw error
    })
  }

  stop() {
    this.child.kill('SIGKILL')
  }
}

scene('the snippet joins, sends what the form says, and hears and sees the page', async (scene) => {
  const pane = new Pane(await scene.open(inspector(server, { enable_presence: 'true', ack: 'true' })))
  await pane.connect()
  await pane.put('send-event', "it's \"quoted\"")
  await pane.put('send-payload', '{"by": "the program\'s hand", "list": [1, null, {"a-b": true}]}')
  const program = new Program(await pane.the('snippet').innerText())
  try {
    await program.prints(/SUBSCRIBED/)
    await see(pane.frames('in', 'broadcast'), "the program's hand")
    await see(pane.the('log').locator('.frame[data-direction="in"]'), `broadcast it's "quoted"`)
    await pane.send('from-the-page', { text: 'hello, program' })
    await program.prints(/hello, program/)
    await program.prints(/present/)
  } finally {
    program.stop()
  }
})
