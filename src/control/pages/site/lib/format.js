// Numbers and times as people read them. What is no number is a dash.

const NOTHING = '–'

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })

function isNumber(value) {
  return typeof value === 'number' && Number.isFinite(value)
}

/** Three digits that mean something: 0.12, 1.23, 12.3, 123, 1,234. */
export function number(value) {
  if (!isNumber(value)) return NOTHING
  if (Number.isInteger(value) || Math.abs(value) >= 100) return whole.format(value)
  const digits = Math.abs(value) >= 10 ? 1 : 2
  return String(Number(value.toFixed(digits)))
}

const BYTES = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']

/** Bytes with a unit, thousands of each other. */
export function bytes(value) {
  if (!isNumber(value)) return NOTHING
  let unit = 0
  let left = value
  // What would be written as 1,000 belongs to the next unit.
  while (Math.abs(left) >= 999.5 && unit < BYTES.length - 1) {
    left /= 1000
    unit += 1
  }
  return `${unit === 0 ? whole.format(left) : number(left)} ${BYTES[unit]}`
}

/** A short time, given in seconds: 0.4 µs, 12 ms, 1.5 s. */
export function seconds(value) {
  if (!isNumber(value)) return NOTHING
  if (value === 0) return '0 µs'
  if (value < 0.000_999_5) return `${number(value * 1e6)} µs`
  if (value < 0.999_5) return `${number(value * 1e3)} ms`
  return `${number(value)} s`
}

const UNITS = [
  ['d', 86_400],
  ['h', 3_600],
  ['min', 60],
  ['s', 1],
]

/** A long time, given in seconds, in its two largest units: 3 d 4 h, 5 min 6 s, 7 s. */
export function age(value) {
  if (!isNumber(value)) return NOTHING
  const all = Math.max(0, Math.floor(value))
  const first = UNITS.findIndex(([, size]) => all >= size)
  if (first < 0) return '0 s'
  const parts = []
  let left = all
  for (const [name, size] of UNITS.slice(first, first + 2)) {
    const count = Math.floor(left / size)
    left -= count * size
    if (count > 0) parts.push(`${count} ${name}`)
  }
  return parts.join(' ')
}

/** A part of one, in percent. */
export function percent(value) {
  if (!isNumber(value)) return NOTHING
  return `${number(Math.round(value * 1000) / 10)} %`
}

/** A latency, given in milliseconds. */
export function milliseconds(ms) {
  if (!isNumber(ms)) return NOTHING
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`
}

/** The time of day with milliseconds: `12:03:09.004`. */
export function clock(time) {
  const date = new Date(time)
  const two = (number) => String(number).padStart(2, '0')
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`
}

/** How many there are of something: `1 row`, `2 rows`. */
export function count(number, one, many = `${one}s`) {
  return `${whole.format(number)} ${number === 1 ? one : many}`
}
