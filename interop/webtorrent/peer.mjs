// A webtorrent peer over TCP.
//
//   node --import ./register.mjs peer.mjs TORRENT|MAGNET DIR [--peer HOST:PORT]... [--seed]
//
// It prints JSON lines: {"event":"listening","port":n}, {"event":"metadata"}, {"event":"complete"} (as a seed: once everything
// is verified), {"event":"error","message":…}, and ends when its standard input does.
import { readFileSync } from 'node:fs'
import WebTorrent from 'webtorrent'

const say = (event, more = {}) => console.log(JSON.stringify({ event, ...more }))
const [source, dir, ...rest] = process.argv.slice(2)
const peers = rest.flatMap((a, i) => a === '--peer' ? [rest[i + 1]] : [])
const client = new WebTorrent({ dht: false, lsd: false, natUpnp: false, natPmp: false, utp: false, webSeeds: false, utPex: rest.includes('--pex') })
client.on('error', e => { say('error', { message: String(e) }); process.exitCode = 1 })
const torrent = client.add(source.startsWith('magnet:') ? source : readFileSync(source), { path: dir, announce: [] })
torrent.on('warning', e => say('warning', { message: String(e) }))
torrent.on('metadata', () => say('metadata'))
torrent.on('done', () => say('complete', { downloaded: torrent.downloaded }))
torrent.on('wire', (w, addr) => say('wire', { addr }))
torrent.on('infoHash', () => {
  const ready = () => {
    say('listening', { port: client.torrentPort })
    for (const p of peers) torrent.addPeer(p)
  }
  client.listening ? ready() : client.on('listening', ready)
})
process.stdin.on('end', () => process.exit()).resume()
