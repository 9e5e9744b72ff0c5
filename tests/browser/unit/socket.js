// A WebSocket that the test plays the server of.

/** Sockets that have been made, the newest last. */
export class FakeSocket extends EventTarget {
  static made = []
  sent = []

  constructor(url) {
    super()
    this.url = url
    FakeSocket.made.push(this)
  }

  send(data) {
    this.sent.push(data)
  }

  close(code) {
    this.closed = code
  }

  // -- what the server does --

  open() {
    this.dispatchEvent(new Event('open'))
  }

  say(...message) {
    this.dispatchEvent(Object.assign(new Event('message'), { data: JSON.stringify(message) }))
  }

  end(code = 1006) {
    this.dispatchEvent(Object.assign(new Event('close'), { code, reason: '' }))
  }

  /** The last message that the client sent of this event. */
  last(event) {
    return this.sent.filter((data) => typeof data === 'string').map((data) => JSON.parse(data)).findLast((message) => message[3] === event)
  }

  /** Answers the last message of this event. */
  answer(event, status = 'ok', response = {}) {
    const [joinRef, ref, topic] = this.last(event)
    this.say(joinRef, ref, topic, 'phx_reply', { status, response })
  }
}

/** Lets promises that are settled tell those who wait for them. */
export const settled = async () => {
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve()
}
