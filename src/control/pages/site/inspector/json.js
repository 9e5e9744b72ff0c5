// What is wrong with a text that should be JSON, in words and with the place; the messages of browsers differ, and few say where.

const CLOSERS = { '{': '}', '[': ']' }
const WORD = /(?:true|false|null)(?![A-Za-z0-9_])/y
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![A-Za-z0-9_.])/y
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y
const SPACE = /[ \t\r\n]*/y

/** `{ value }` of a JSON text, or `{ problem }`: a sentence that says what is wrong in which line and column. */
export function read(text) {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return { problem: problemIn(text) }
  }
}

function problemIn(text) {
  if (text.trim() === '') return 'There is nothing here; the smallest payload is {}.'
  const { at, message } = find(text)
  const before = text.slice(0, at).split('\n')
  return `Line ${before.length}, column ${before.at(-1).length + 1}: ${message}`
}

/** The first place where `text` stops being JSON. What is open stands on a stack: nesting needs no recursion. */
function find(text) {
  const open = []
  let at = 0
  let wants = 'value'
  for (;;) {
    at += match(SPACE, text, at)
    const char = text[at]
    const found = char === undefined ? 'the text ends' : `there is ${shown(char)}`
    if (wants === 'end of text') return { at, message: `there is ${shown(char)} after the end of the value` }
    const top = open.at(-1)
    if (wants === 'value' || wants === 'value or end') {
      if (char === '{' || char === '[') {
        open.push(char)
        at += 1
        wants = char === '{' ? 'name or end' : 'value or end'
        continue
      }
      const isEnd = wants === 'value or end' && char === ']'
      const length = isEnd ? 0 : match(STRING, text, at) || match(NUMBER, text, at) || match(WORD, text, at)
      if (!isEnd && length === 0) return { at, message: wrongValue(text, at, found) }
      if (isEnd) open.pop()
      at += isEnd ? 1 : length
    } else if (wants.startsWith('name')) {
      const isEnd = wants === 'name or end' && char === '}'
      const length = isEnd ? 0 : match(STRING, text, at)
      if (!isEnd && length === 0) return { at, message: char === '"' ? brokenString(text, at) : `a name in double quotes was expected, ${found}` }
      at += isEnd ? 1 : length
      if (!isEnd) {
        at += match(SPACE, text, at)
        if (text[at] !== ':') return { at, message: `a colon was expected after the name, ${text[at] === undefined ? 'the text ends' : `there is ${shown(text[at])}`}` }
        at += 1
        wants = 'value'
        continue
      }
      open.pop()
    } else if (char === ',') {
      at += 1
      wants = top === '{' ? 'name' : 'value'
      continue
    } else if (char === CLOSERS[top]) {
      at += 1
      open.pop()
    } else {
      return { at, message: `a comma or ${shown(CLOSERS[top])} was expected, ${found}` }
    }
    wants = open.length > 0 ? 'comma or end' : 'end of text'
  }
}

function wrongValue(text, at, found) {
  if (text[at] === '"') return brokenString(text, at)
  if (text[at] === "'") return 'strings stand in double quotes, there is a single one'
  const word = /^[A-Za-z_][A-Za-z0-9_]*/.exec(text.slice(at, at + 32))
  return `a value was expected, ${word ? `there is the word ${word[0]}, without quotes` : found}`
}

function brokenString(text, at) {
  const end = /["\n]/.exec(text.slice(at + 1).replace(/\\./g, '__'))
  if (!end || end[0] === '\n') return 'a string begins here and does not end in its line'
  return 'this string has a backslash or a character that JSON does not allow'
}

function shown(char) {
  return char === '`' ? 'a backquote' : `\`${char}\``
}

function match(pattern, text, at) {
  pattern.lastIndex = at
  return pattern.exec(text)?.[0].length ?? 0
}
