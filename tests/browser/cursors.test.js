// The cursors demo: two windows see each other's names, cursors and clicks, by pointer, finger and keyboard.

import assert from 'node:assert/strict'
import { after, before } from 'node:test'

import { Server, anyRoom, repeated, scene, see, token, until, useBrowser } from './support.js'

let server
let guarded
useBrowser()
before(async () => {
  server = await Server.start({ API_JWT_SECRET: undefined })
  guarded = await Server.start({ CONNECT_ERROR_BACKOFF_MS: '50' })
})
after(async () => {
  await server?.dispose()
  await guarded?.dispose()
})

const address = (settings, at = server) => `${at.http}/demo/cursors?${new URLSearchParams(settings)}`

/** A window in a room, entered. */
async function entered(scene, settings, options) {
  const page = await scene.open(address(settings), options)
  await see(page.locator('#state'), 'Joined')
  await see(page.locator('#people li'), /\(you\)/)
  return page
}

/** Two windows of Ann and Bob in a room, who know of each other. */
async function twoWindows(scene, options) {
  const room = anyRoom()
  const [ann, bob] = [await entered(scene, { room, name: 'Ann' }, options), await entered(scene, { room, name: 'Bob' }, options)]
  for (const page of [ann, bob]) await see(page.locator('#count'), '2')
  return { room, ann, bob }
}

/** The cursor of somebody in a window. */
const cursor = (page, name) => page.locator('#stage .cursor').filter({ hasText: name })

/** Waits until somebody's cursor is at this part of the area, to a pixel. */
function at(page, name, x, y) {
  return until(page, `the cursor of ${name} at ${x}, ${y}`, ([name, x, y]) => {
    const stage = document.getElementById('stage')
    const cursor = [...stage.querySelectorAll('.cursor')].find((cursor) => cursor.textContent.includes(name))
    if (!cursor) return false
    const { e, f } = new DOMMatrix(getComputedStyle(cursor).transform)
    return Math.abs(e - x * stage.clientWidth) < 1.5 && Math.abs(f - y * stage.clientHeight) < 1.5
  }, [name, x, y])
}

/** Moves the pointer to this part of the area. */
async function point(page, x, y) {
  const box = await page.locator('#stage').boundingBox()
  await page.mouse.move(box.x + 1 + x * (box.width - 2), box.y + 1 + y * (box.height - 2))
}

scene('a link to another server sends nothing there before a click', async (scene) => {
  const room = anyRoom()
  const page = await scene.open(server.http)
  const asked = []
  page.on('request', (request) => asked.push(request.url()))
  page.on('websocket', (socket) => asked.push(socket.url()))
  await page.goto(address({ room, name: 'Ann', host: guarded.http }))
  await see(page.locator('#notice'), guarded.http)
  await see(page.locator('#state'), 'Disconnected')
  assert.equal(await page.locator('#token').inputValue(), '')
  // A click without a token says so, and still sends nothing.
  await page.locator('#enter').click()
  await see(page.locator('#notice'), /token is needed/)
  assert.deepEqual(asked.filter((url) => new URL(url).host === new URL(guarded.http).host), [])
  const typed = token('anon')
  await page.locator('#token').fill(typed)
  await page.locator('#connect').click()
  await see(page.locator('#state'), 'Joined')
  assert.doesNotMatch(page.url(), /token/)
  // It was typed for that server alone.
  await page.goto(address({ room, host: 'http://elsewhere.localhost:4999' }))
  await see(page.locator('#notice'), 'elsewhere.localhost')
  assert.equal(await page.locator('#token').inputValue(), '')
  await page.goto(address({ room, host: guarded.http }))
  await see(page.locator('#notice'), guarded.http)
  assert.equal(await page.locator('#token').inputValue(), typed)
})

scene('the first visit joins, with a room and a name, and says what to do next', async (scene) => {
  const page = await scene.open(`${server.http}/demo/cursors`)
  await see(page.locator('#state'), 'Joined')
  assert.equal(new URL(page.url()).searchParams.get('room'), 'cursors')
  assert.match(await page.locator('#name').inputValue(), /\w+ \w+/)
  await see(page.locator('#people li'), /\(you\)/)
  await see(page.locator('#alone'), 'Open a second window')
  await see(page.locator('#latency'), /\d ms/)
  assert.doesNotMatch(page.url(), /token/)
})

scene('the second window sees the first, and the first the second', async (scene) => {
  const room = anyRoom()
  const first = await entered(scene, { room, name: 'Ann' })
  await point(first, 0.25, 0.5)
  await at(first, 'Ann', 0.25, 0.5)
  const [second] = await Promise.all([first.waitForEvent('popup'), first.locator('#open-window').click()])
  await see(second.locator('#state'), 'Joined')
  const name = await second.locator('#name').inputValue()
  assert.notEqual(name, 'Ann')
  await see(first.locator('#people li'), name)
  await see(second.locator('#people li'), 'Ann')
  await see(first.locator('#count'), '2')
  // Who has come last is told where the others are, without their moving.
  await at(second, 'Ann', 0.25, 0.5)
  await point(second, 0.75, 0.25)
  await at(first, name, 0.75, 0.25)
  await second.close()
  await see(first.locator('#count'), '1')
  assert.equal(await cursor(first, name).count(), 0)
  await see(first.locator('#said'), `${name} left`)
})

scene('a cursor moves smoothly, and is sent at most 30 times a second', async (scene) => {
  const { ann, bob } = await twoWindows(scene)
  await bob.evaluate(() => {
    globalThis.places = new Set()
    const look = () => {
      const cursor = [...document.querySelectorAll('#stage .cursor')].find((cursor) => cursor.textContent.includes('Ann'))
      if (cursor) globalThis.places.add(cursor.style.transform)
      requestAnimationFrame(look)
    }
    look()
  })
  // A fast hand: several moves for each frame, until enough was sent to see how often.
  const { moves, sent, seconds } = await ann.evaluate(async () => {
    const stage = document.getElementById('stage')
    const { left, top, width, height } = stage.getBoundingClientRect()
    const sent = []
    const { send } = WebSocket.prototype
    WebSocket.prototype.send = function (data) {
      if (typeof data !== 'string') sent.push(performance.now())
      return send.call(this, data)
    }
    let moves = 0
    const move = (part) => {
      stage.dispatchEvent(new PointerEvent('pointermove', { clientX: left + part * width, clientY: top + height / 2 }))
      moves += 1
    }
    const start = performance.now()
    while (sent.length < 20) {
      for (let n = 0; n < 4; n += 1) move(0.1 + (0.8 * sent.length) / 20)
      await new Promise(requestAnimationFrame)
    }
    const seconds = (performance.now() - start) / 1000
    move(0.9)
    return { moves, sent, seconds }
  })
  await at(bob, 'Ann', 0.9, 0.5)
  const places = await bob.evaluate(() => globalThis.places.size)
  assert.ok(places >= 5, `${places} places`)
  assert.ok(sent.length <= 30 * seconds + 2 && sent.length < moves, `${sent.length} messages of ${moves} moves in ${seconds} s`)
  const gaps = sent.slice(1).map((time, n) => time - sent[n])
  assert.ok(Math.min(...gaps) > 25, `gaps of ${gaps.map(Math.round)} ms`)
})

scene('arrow keys move the cursor, Enter and a click leave ripples that the others see', async (scene) => {
  const { ann, bob } = await twoWindows(scene)
  for (let presses = 0; !(await ann.evaluate(() => document.activeElement.id === 'stage')); presses += 1) {
    assert.ok(presses < 30, 'Tab does not reach the area')
    await ann.keyboard.press('Tab')
  }
  await point(bob, 0.1, 0.1)
  await ann.keyboard.press('ArrowRight')
  await at(ann, 'Ann', 0.52, 0.4)
  await ann.keyboard.press('Shift+ArrowDown')
  await at(bob, 'Ann', 0.52, 0.5)
  const ripples = (page) =>
    page.evaluate(() => {
      globalThis.ripples = []
      new MutationObserver((records) => {
        for (const { addedNodes } of records) for (const node of addedNodes) if (node.classList?.contains('ripple')) globalThis.ripples.push(node.dataset.person)
      }).observe(document.getElementById('stage'), { childList: true })
    })
  await ripples(ann)
  await ripples(bob)
  await ann.keyboard.press('Enter')
  await until(bob, 'the first ripple', () => globalThis.ripples.length === 1)
  const box = await bob.locator('#stage').boundingBox()
  await bob.mouse.click(box.x + box.width / 2, box.y + box.height / 2)
  await until(ann, 'the second ripple', () => globalThis.ripples.length === 2)
  await until(bob, 'the own one', () => globalThis.ripples.length === 2)
  const [own, other] = await ann.evaluate(() => globalThis.ripples)
  assert.notEqual(own, other)
  for (const page of [ann, bob]) await until(page, 'the ripples to be over', () => !document.querySelector('#stage .ripple'))
  // The keys did not scroll the page, and Tab leaves the area again.
  assert.equal(await ann.evaluate(() => scrollY), 0)
  await ann.keyboard.press('Tab')
  assert.equal(await ann.evaluate(() => document.activeElement.id === 'stage'), false)
})

scene('a finger moves the cursor too', async (scene) => {
  const { ann, bob } = await twoWindows(scene, { hasTouch: true, isMobile: true, viewport: { width: 360, height: 740 } })
  const box = await ann.locator('#stage').boundingBox()
  await ann.touchscreen.tap(box.x + 1 + 0.3 * (box.width - 2), box.y + 1 + 0.6 * (box.height - 2))
  await at(bob, 'Ann', 0.3, 0.6)
})

scene('who rests fades, and people are there in words', async (scene) => {
  const { ann, bob } = await twoWindows(scene)
  const row = bob.locator('#people li').filter({ hasText: 'Ann' })
  // A few seconds after a move it is over, and on a busy machine it may have been said too late.
  let side = 0
  await repeated(() => point(ann, 0.9, 0.1 + 0.01 * (side = 1 - side)), row.filter({ hasText: /moving, top right, \d+(\.\d)? ms/ }))
  await see(row, /idle, top right/)
  await until(bob, 'the cursor to fade', () => {
    const cursor = [...document.querySelectorAll('#stage .cursor')].find((cursor) => cursor.textContent.includes('Ann'))
    return Number(getComputedStyle(cursor.querySelector('.pointer')).opacity) < 0.5
  })
  await point(ann, 0.5, 0.1)
  await until(bob, 'the cursor to be back', () => {
    const cursor = [...document.querySelectorAll('#stage .cursor')].find((cursor) => cursor.textContent.includes('Ann'))
    return Number(getComputedStyle(cursor.querySelector('.pointer')).opacity) === 1
  })
})

scene('another name reaches everybody, on the label as well', async (scene) => {
  const { ann, bob } = await twoWindows(scene)
  await point(ann, 0.5, 0.5)
  await see(cursor(bob, 'Ann'), 'Ann')
  await ann.locator('#name').fill('  Anna   Maria ')
  await ann.locator('#name').press('Tab')
  await see(bob.locator('#people li'), /^Anna Maria/)
  await see(cursor(bob, 'Anna Maria'), 'Anna Maria')
  await see(ann.locator('#people li'), 'Anna Maria (you)')
  assert.equal(await bob.locator('#people li').count(), 2)
})

scene('another room is another company, and stands in the address', async (scene) => {
  const { ann, bob, room } = await twoWindows(scene)
  await ann.locator('#room').fill(`${room} b/ä`)
  await ann.locator('#room').press('Enter')
  await see(bob.locator('#count'), '1')
  await see(ann.locator('#state'), 'Joined')
  assert.equal(new URL(ann.url()).searchParams.get('room'), `${room} b/ä`)
  const third = await entered(scene, { room: `${room} b/ä`, name: 'Cid' })
  await see(third.locator('#people li'), 'Ann')
  assert.equal(await third.locator('#people li').filter({ hasText: 'Bob' }).count(), 0)
})

scene('people who want no motion get none', async (scene) => {
  const { ann, bob } = await twoWindows(scene, { reducedMotion: 'reduce' })
  await bob.evaluate(() => {
    globalThis.places = new Set()
    const look = () => {
      const cursor = [...document.querySelectorAll('#stage .cursor')].find((cursor) => cursor.textContent.includes('Ann'))
      if (cursor) globalThis.places.add(cursor.style.transform)
      requestAnimationFrame(look)
    }
    look()
  })
  await point(ann, 0.1, 0.5)
  await at(bob, 'Ann', 0.1, 0.5)
  await point(ann, 0.9, 0.5)
  await at(bob, 'Ann', 0.9, 0.5)
  const places = await bob.evaluate(() => globalThis.places.size)
  assert.ok(places <= 3, `${places} places on the way`)
  const [animation] = await ann.evaluate(() => {
    document.getElementById('stage').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' }))
    return document.querySelector('.ripple').getAnimations({ subtree: true }).map(({ animationName }) => animationName)
  })
  assert.equal(animation, 'ripple-still')
})

scene('without a token the page says what to do, and takes one', async (scene) => {
  const page = await scene.open(address({ room: 'r' }, guarded))
  await see(page.locator('#notice'), /token/i)
  await see(page.locator('#state'), 'Disconnected')
  await page.locator('#token').fill('not a token')
  await page.locator('#connect').click()
  await see(page.locator('#notice'), /not a JWT/)
  await page.locator('#token').fill(token('anon'))
  await page.locator('#connect').click()
  await see(page.locator('#state'), 'Joined')
  assert.equal(await page.locator('#notice').isVisible(), false)
  assert.doesNotMatch(page.url(), /token/)
  // The second window has it as well.
  const [second] = await Promise.all([page.waitForEvent('popup'), page.locator('#open-window').click()])
  await see(second.locator('#state'), 'Joined')
  await see(page.locator('#count'), '2')
})

scene('a token may come by the address, and one of another secret is refused in words', async (scene) => {
  const page = await scene.open(address({ room: 'r', token: token('anon') }, guarded))
  await see(page.locator('#state'), 'Joined')
  assert.match(page.url(), /token=/)
  scene.expect(/WebSocket connection to .* failed/, /answered 401/, /Failed to load resource.*401/)
  await page.locator('#token').fill(token('anon').replace(/\.[^.]+$/, `.${Buffer.alloc(32, 1).toString('base64url')}`))
  await page.locator('#connect').click()
  await see(page.locator('#notice'), /signature/)
  await see(page.locator('#state'), 'Disconnected')
})

scene('a server that restarts is come back to', async (scene) => {
  const other = await Server.start({ API_JWT_SECRET: undefined })
  try {
    scene.expect(/WebSocket connection to .* failed/, /ERR_(CONNECTION_(REFUSED|RESET)|EMPTY_RESPONSE)/)
    const page = await scene.open(address({ room: 'r', name: 'Ann' }, other))
    await see(page.locator('#people li'), 'Ann (you)')
    await other.stop()
    await see(page.locator('#notice'), /Nothing answers/)
    assert.equal(await page.locator('#people li').count(), 0)
    await other.run()
    await see(page.locator('#state'), 'Joined')
    await see(page.locator('#people li'), 'Ann (you)')
    assert.equal(await page.locator('#notice').isVisible(), false)
  } finally {
    await other.dispose()
  }
})

scene('when the events of the tenant are used up, the page says so, slows down and comes back', async (scene) => {
  const small = await Server.start({ TENANT_MAX_EVENTS_PER_SECOND: '2' })
  try {
    const room = anyRoom()
    const open = (name) => scene.open(address({ room, name, token: token('anon') }, small))
    const [ann, bob] = [await open('Ann'), await open('Bob')]
    for (const page of [ann, bob]) await see(page.locator('#count'), '2')
    await ann.evaluate(() => {
      const stage = document.getElementById('stage')
      const { left, top, width, height } = stage.getBoundingClientRect()
      globalThis.isWaving = true
      const wave = (now) => {
        const part = 0.5 + 0.4 * Math.sin(now / 100)
        stage.dispatchEvent(new PointerEvent('pointermove', { clientX: left + part * width, clientY: top + height / 2 }))
        if (globalThis.isWaving) requestAnimationFrame(wave)
      }
      wave(0)
    })
    await see(bob.locator('#notice'), 'Too many messages per second')
    await ann.evaluate(() => (globalThis.isWaving = false))
    await see(bob.locator('#state'), 'Closed')
    await see(ann.locator('#count'), '1')
    // With another limit the server counts anew.
    const answer = await fetch(`${small.http}/api/tenants/realtime-dev`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${token('any')}`, 'content-type': 'application/json' },
      body: JSON.stringify({ tenant: { max_events_per_second: 1000 } }),
    })
    assert.equal(answer.status, 200)
    await see(bob.locator('#state'), 'Joined')
    assert.equal(await bob.locator('#notice').isVisible(), false)
    await point(bob, 0.5, 0.25)
    await at(ann, 'Bob', 0.5, 0.25)
    // With somebody else who rests it would be 30; it is 10 where the server closed the channel twice.
    await see(bob.locator('#people li').filter({ hasText: 'Ann' }), /idle/)
    assert.match(await bob.locator('#pace').innerText(), /^(20|10)$/)
  } finally {
    await small.dispose()
  }
})
