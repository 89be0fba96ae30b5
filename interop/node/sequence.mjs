// The messages of ../sequence/sequence.go, byte for byte, and the same sum over them.
import { createHash } from 'node:crypto'

export const MAX_BYTES = 60 << 10
export const FROM_PARLEY = 1
export const TO_PARLEY = 2

export function message (direction, i) {
  let x = (Math.imul(i, 2654435761) + Math.imul(direction, 40503) + 1) >>> 0
  if (x === 0) x = 1
  const next = () => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return x >>> 0
  }
  let size = next() % (MAX_BYTES + 1)
  if (i % 50 === 0) size = 0
  if (i % 50 === 1) size = MAX_BYTES
  const out = Buffer.allocUnsafe((size + 3) & ~3)
  for (let at = 0; at < size; at += 4) out.writeUInt32LE(next(), at)
  return out.subarray(0, size)
}

export class Sum {
  count = 0
  bytes = 0
  #hash = createHash('sha256')

  add (msg) {
    const n = Buffer.allocUnsafe(4)
    n.writeUInt32BE(msg.length)
    this.#hash.update(n).update(msg)
    this.count++
    this.bytes += msg.length
  }

  // Can be asked once.
  hex () { return this.#hash.digest('hex') }
}
