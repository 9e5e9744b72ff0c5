// The latency of a pane's own broadcasts: a bar per echo, a mark per ack, lines at the percentiles, and the figures as text.

import { milliseconds } from '../lib/format.js'
import { eachFrame } from './batch.js'
import { draw } from './dom.js'
import { SAMPLES_MAX } from './latency.js'

const WIDTH = 240
const HEIGHT = 56
/** The scale never gets finer than this: below it, differences are noise. */
const SCALE_MS_MIN = 2

export class PlotView {
  #latencies
  #parts
  #paths
  #paint = eachFrame(() => this.#flush())

  constructor(latencies, parts) {
    this.#latencies = latencies
    this.#parts = parts
    this.#paths = Object.fromEntries(['p50', 'p95', 'echo', 'ack'].map((name) => [name, draw('path', { class: name })]))
    parts.plot.append(...Object.values(this.#paths))
  }

  changed() {
    this.#paint()
  }

  #flush() {
    const { samples } = this.#latencies
    const echo = this.#latencies.figures('echo')
    const ack = this.#latencies.figures('ack')
    const top = Math.max(SCALE_MS_MIN, echo?.max ?? 0, ack?.max ?? 0)
    const y = (ms) => (HEIGHT - 2 - (ms / top) * (HEIGHT - 6)).toFixed(1)
    const x = (index) => (((index + 0.5) / SAMPLES_MAX) * WIDTH).toFixed(1)
    const across = (ms) => (ms === undefined ? '' : `M0 ${y(ms)}H${WIDTH}`)
    const bars = samples.map(({ kind, ms }, index) => ({ kind, path: kind === 'echo' ? `M${x(index)} ${HEIGHT}V${y(ms)}` : `M${x(index)} ${y(ms)}h2` }))
    const pathOf = (wanted) => bars.filter(({ kind }) => kind === wanted).map(({ path }) => path).join('')
    const paths = { echo: pathOf('echo'), ack: pathOf('ack'), p50: across(echo?.p50), p95: across(echo?.p95) }
    for (const [name, path] of Object.entries(paths)) this.#paths[name].setAttribute('d', path)
    const lines = [echo && line('echo', echo), ack && line('ack', ack)].filter(Boolean)
    const text = lines.join('\n')
    this.#parts['plot-text'].textContent = text || 'No own broadcast has come back yet.'
    this.#parts.plot.setAttribute('aria-label', text ? `Latency of own broadcasts: ${lines.join('; ')}` : 'Latency of own broadcasts')
  }
}

function line(name, { count, last, p50, p95 }) {
  return `${name} last ${milliseconds(last)}, p50 ${milliseconds(p50)}, p95 ${milliseconds(p95)} of ${count}`
}
