// The form that broadcasts: what it says must be JSON, is sent once or again and again, and is timed when it comes back.

import { read } from './json.js'

export class Sender {
  #parts
  #session
  #latencies
  #onProblem
  #timer = null
  #sent = 0

  /** `onProblem` hears the text of what a server says against a broadcast. */
  constructor({ parts, session, latencies, onProblem }) {
    this.#parts = parts
    this.#session = session
    this.#latencies = latencies
    this.#onProblem = onProblem
    parts['send-form'].addEventListener('submit', (event) => {
      event.preventDefault()
      this.#submit()
    })
    parts['send-payload'].addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.#submit()
    })
    for (const role of ['send-payload', 'as-bytes']) parts[role].addEventListener('input', () => this.#check())
    parts.repeat.addEventListener('change', () => this.stop())
  }

  /** What the form says: `{ event, payload }`, or `{ problem }`. */
  get message() {
    const text = this.#parts['send-payload'].value
    const event = this.#parts['send-event'].value
    if (this.#parts['as-bytes'].checked) return { event, payload: new TextEncoder().encode(text) }
    const { value, problem } = read(text)
    return problem ? { event, problem } : { event, payload: value }
  }

  /** Ends the repetition. */
  stop() {
    clearInterval(this.#timer)
    this.#timer = null
    this.#parts.send.textContent = 'Send'
  }

  #submit() {
    if (this.#timer !== null) {
      this.stop()
      return
    }
    const periodMs = Number(this.#parts.repeat.value)
    if (!this.#send() || periodMs === 0) return
    this.#timer = setInterval(() => this.#send() || this.stop(), periodMs)
    this.#parts.send.textContent = 'Stop'
  }

  /** Broadcasts once; false when that is not possible. */
  #send() {
    const message = this.#check()
    if (message.problem) return false
    const channel = this.#session.joined
    if (!channel) {
      this.#say('Not sent: the channel is not joined.')
      return false
    }
    if (channel.config.broadcast.self) this.#latencies.sent(message.event, message.payload, performance.now())
    channel.broadcast(message.event, message.payload).then(
      (reply) => this.#onReply(reply),
      (error) => this.#say(error.message),
    )
    this.#sent += 1
    this.#parts['send-status'].textContent = `${this.#sent} sent`
    return true
  }

  #onReply({ status, response, ms }) {
    if (status === 'ok') this.#latencies.acked(ms)
    else if (status === 'timeout') this.#onProblem('timeout')
    else if (status === 'error') this.#onProblem(typeof response === 'string' ? response : (response?.reason ?? JSON.stringify(response)))
  }

  /** Shows what is wrong with the payload; the message. */
  #check() {
    const message = this.message
    this.#say(message.problem ? `This is not JSON. ${message.problem}.` : '', Boolean(message.problem))
    return message
  }

  #say(text, isOfPayload = false) {
    this.#parts['send-error'].textContent = text
    if (isOfPayload) this.#parts['send-payload'].setAttribute('aria-invalid', 'true')
    else this.#parts['send-payload'].removeAttribute('aria-invalid')
  }
}
