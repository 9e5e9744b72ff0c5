// Numbers and times as the page shows them.

/** The time of day with milliseconds: `12:03:09.004`. */
export function clock(time) {
  const date = new Date(time)
  const two = (number) => String(number).padStart(2, '0')
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`
}

export function bytes(count) {
  if (count < 1_000) return `${count} B`
  const [size, unit] = count < 1_000_000 ? [1_000, 'kB'] : [1_000_000, 'MB']
  return `${(count / size).toFixed(count < 10 * size ? 1 : 0)} ${unit}`
}

export function milliseconds(ms) {
  if (ms === null) return '–'
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString('en')} ${number === 1 ? one : many}`
}
