// The form that says who is present here.

import { read } from './json.js'

export class Tracker {
  #parts
  #session
  #onProblem

  constructor({ parts, session, identity, onProblem }) {
    this.#parts = parts
    this.#session = session
    this.#onProblem = onProblem
    parts['track-payload'].value = JSON.stringify({ name: identity, t: Date.now() })
    parts['track-payload'].addEventListener('input', () => this.#check())
    parts['track-payload'].addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.track()
    })
    parts.track.addEventListener('click', () => this.track())
    parts.untrack.addEventListener('click', () => this.#push((channel) => channel.untrack()))
  }

  /** What the field says: `{ value }` or `{ problem }`. */
  get meta() {
    return read(this.#parts['track-payload'].value)
  }

  track() {
    const { value, problem } = this.#check()
    if (!problem) this.#push((channel) => channel.track(value))
  }

  async #push(action) {
    const channel = this.#session.joined
    if (!channel) {
      this.#say('Not sent: the channel is not joined.')
      return
    }
    const { status, response } = await action(channel)
    if (status === 'error') this.#onProblem(response?.reason ?? 'The server refused the presence and gave no reason.')
    else if (status === 'timeout') this.#onProblem('timeout')
  }

  #check() {
    const meta = this.meta
    this.#say(meta.problem ? `This is not JSON. ${meta.problem}.` : '')
    return meta
  }

  #say(text) {
    this.#parts['track-error'].textContent = text
    if (text) this.#parts['track-payload'].setAttribute('aria-invalid', 'true')
    else this.#parts['track-payload'].removeAttribute('aria-invalid')
  }
}
