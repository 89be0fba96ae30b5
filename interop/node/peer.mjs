// A peer on npm bittorrent-protocol with one extension, for the interop tests.
//
//   node peer.mjs --infohash HEX --type NAME [--dial PORT | --listen PORT] [--send N] [--recv N] [--echo]
//                 [--say TEXT]... [--pause-after N --pause-ms MS]
//
// --send N sends the messages of sequence.mjs, --recv N sums up that many, --echo returns each message, --say sends texts.
// --pause-after N stops reading from the socket for --pause-ms once N messages have come. Prints one JSON object per line
// and ends when its standard input does.
import net from 'node:net'
import { once } from 'node:events'
import { setImmediate as immediate, setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import Protocol from 'bittorrent-protocol'
import { message, Sum, TO_PARLEY } from './sequence.mjs'

const { values: opt } = parseArgs({
  options: {
    infohash: { type: 'string' },
    type: { type: 'string' },
    dial: { type: 'string' },
    listen: { type: 'string' },
    send: { type: 'string', default: '0' },
    recv: { type: 'string', default: '0' },
    echo: { type: 'boolean', default: false },
    say: { type: 'string', multiple: true, default: [] },
    'pause-after': { type: 'string', default: '0' },
    'pause-ms': { type: 'string', default: '0' }
  }
})
const sendCount = +opt.send
const recvCount = +opt.recv
const pauseAfter = +opt['pause-after']
// What may lie unsent in this process: bittorrent-protocol itself never says stop.
const HIGH_WATER = 1 << 20

const started = Date.now()
const emit = (event, fields = {}) =>
  process.stdout.write(JSON.stringify({ event, ms: Date.now() - started, ...fields }) + '\n')
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))

let peakRss = 0
const sampleRss = () => { peakRss = Math.max(peakRss, process.memoryUsage().rss) }
setInterval(sampleRss, 50)

function run (sock, initiator) {
  sock.setNoDelay(true)
  const wire = new Protocol()
  const received = new Sum()

  class Extension {
    onHandshake () {}
    onExtendedHandshake () {}
    onMessage (buf) {
      received.add(buf)
      if (recvCount === 0) emit('message', { text: Buffer.from(buf).toString('utf8') })
      if (opt.echo) wire.extended(opt.type, buf)
      if (received.count === recvCount) {
        sampleRss()
        emit('received', { count: received.count, bytes: received.bytes, sha256: received.hex(), rss: peakRss })
      } else if (recvCount > 0 && received.count > recvCount) {
        emit('error', { message: 'more messages than expected: ' + received.count })
      }
    }
  }
  Extension.prototype.name = opt.type
  wire.use(Extension)

  const unsent = () => wire._readableState.buffered + sock.writableLength
  let longestWait = 0
  async function roomToSend () {
    const from = Date.now()
    while (unsent() > HIGH_WATER) await sleep(1)
    longestWait = Math.max(longestWait, Date.now() - from)
  }

  async function send () {
    const sum = new Sum()
    for (let i = 0; i < sendCount; i++) {
      await roomToSend()
      if (i % 16 === 15) await immediate() // or nothing would be read meanwhile
      const msg = message(TO_PARLEY, i)
      sum.add(msg)
      wire.extended(opt.type, msg)
    }
    if (sendCount > 0) {
      sampleRss()
      emit('sent', { count: sum.count, bytes: sum.bytes, sha256: sum.hex(), rss: peakRss, longest_wait_ms: longestWait })
    }
    for (const text of opt.say) wire.extended(opt.type, Buffer.from(text, 'utf8'))
  }

  let sending = false
  wire.on('handshake', (infoHash, peerId) => {
    if (infoHash !== opt.infohash) emit('error', { message: 'peer wants info-hash ' + infoHash })
    emit('handshake', { peer_id: peerId })
    if (!initiator) wire.handshake(opt.infohash, '2d4e50303530392d' + '6e'.repeat(12))
  })
  wire.on('extended', (what, handshake) => {
    if (what !== 'handshake') return
    emit('extended_handshake', { m: Object.keys(handshake.m ?? {}), v: handshake.v ? Buffer.from(handshake.v).toString('utf8') : '' })
    if (!sending && wire.peerExtendedMapping[opt.type]) {
      sending = true
      send().catch(err => emit('error', { message: String(err.stack) }))
    }
  })
  wire.on('error', err => emit('error', { message: String(err) }))
  wire.on('close', () => emit('closed', { received: received.count }))
  sock.on('error', err => emit('error', { message: String(err) }))

  // The socket is read by hand instead of piped, so that reading can stop and TCP fills up.
  wire.pipe(sock)
  read().catch(err => { if (!sock.destroyed) emit('error', { message: String(err.stack) }) })
  async function read () {
    let paused = false
    for await (const chunk of sock) {
      if (wire.destroyed) return
      if (!wire.write(chunk)) await once(wire, 'drain')
      if (pauseAfter > 0 && !paused && received.count >= pauseAfter) {
        paused = true
        emit('paused', { received: received.count, bytes: received.bytes })
        await sleep(+opt['pause-ms'])
        emit('resumed', { received: received.count, bytes: received.bytes })
      }
    }
    emit('end')
  }
  if (initiator) wire.handshake(opt.infohash, '2d4e50303530392d' + '6e'.repeat(12))
}

if (opt.dial) {
  run(net.connect(+opt.dial, '127.0.0.1'), true)
} else {
  const server = net.createServer(sock => run(sock, false))
  server.listen(+(opt.listen ?? 0), '127.0.0.1', () => emit('listening', { port: server.address().port }))
}
