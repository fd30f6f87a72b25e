/**
 * HMAC-SHA-256 (FIPS 180-4, RFC 2104) of texts, synchronously.
 *
 * The digests of `effect/crypto` run on WebCrypto and are asynchronous, and a key must be there before a call can go on. The state after
 * the padded secret is computed once, so a tag of a short text costs two blocks.
 */
export interface Hmac {
  /** The tag of the UTF-8 bytes of a text, in lower-case hexadecimal digits. */
  readonly hex: (text: string) => string
}

/** Creates the function for one secret. */
export const make = (secret: Uint8Array): Hmac => {
  const padded = new Uint8Array(64)
  padded.set(secret.length > 64 ? bytesOf(sha256(secret, secret.length, initial, 0)) : secret)
  const inner = afterBlock(padded.map((byte) => byte ^ 0x36))
  const outer = afterBlock(padded.map((byte) => byte ^ 0x5c))
  return {
    hex: (text) => {
      const length = utf8(text)
      const tag = sha256(scratch, length, inner, 64)
      if (scratch.length > maxScratch) scratch = new Uint8Array(maxScratch)
      const bytes = bytesOf(tag)
      return hexOf(sha256(bytes, bytes.length, outer, 64))
    }
  }
}

type State = Int32Array

// The first 32 bits of the fractional parts of the square roots (state) and cube roots (constants) of the first primes.
const primes: ReadonlyArray<number> = Array.from({ length: 312 }, (_, index) => index).filter(
  (n) => n > 1 && !Array.from({ length: Math.floor(Math.sqrt(n)) }, (_, i) => i + 2).some((d) => d < n && n % d === 0)
)
const fraction = (root: number): number => Math.floor((root - Math.floor(root)) * 2 ** 32) | 0
const initial: State = Int32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime)))
const constants: State = Int32Array.from(primes.slice(0, 64), (prime) => fraction(Math.cbrt(prime)))

const words = new Int32Array(64)
const tail = new Uint8Array(128)

// Nothing of it survives a call; what a long text needed is given back.
const maxScratch = 65_536
let scratch = new Uint8Array(4096)

const utf8 = (text: string): number => {
  // A character of UTF-16 takes at most three bytes.
  if (scratch.length < text.length * 3) scratch = new Uint8Array(text.length * 3)
  const bytes = scratch
  let end = 0
  for (let i = 0; i < text.length; i++) {
    let code = text.charCodeAt(i)
    if (code < 0x80) {
      bytes[end++] = code
      continue
    }
    if (code < 0x800) {
      bytes[end++] = 0xc0 | (code >> 6)
    } else {
      if (code >= 0xd800 && code < 0xdc00 && i + 1 < text.length) {
        const low = text.charCodeAt(i + 1)
        if (low >= 0xdc00 && low < 0xe000) {
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00)
          i++
        }
      }
      if (code < 0x10000) {
        bytes[end++] = 0xe0 | (code >> 12)
      } else {
        bytes[end++] = 0xf0 | (code >> 18)
        bytes[end++] = 0x80 | ((code >> 12) & 0x3f)
      }
      bytes[end++] = 0x80 | ((code >> 6) & 0x3f)
    }
    bytes[end++] = 0x80 | (code & 0x3f)
  }
  return end
}

const afterBlock = (block: Uint8Array): State => {
  const state = Int32Array.from(initial)
  compress(state, block, 0)
  return state
}

const sha256 = (bytes: Uint8Array, length: number, from: State, before: number): State => {
  const state = Int32Array.from(from)
  const whole = length - (length % 64)
  for (let offset = 0; offset < whole; offset += 64) compress(state, bytes, offset)
  const rest = length - whole
  const end = rest < 56 ? 64 : 128
  const last = tail.fill(0)
  for (let i = 0; i < rest; i++) last[i] = bytes[whole + i] ?? 0
  last[rest] = 0x80
  const bits = (before + length) * 8
  for (let i = 1, left = bits; left > 0; i++, left = Math.floor(left / 256)) last[end - i] = left % 256
  for (let offset = 0; offset < end; offset += 64) compress(state, last, offset)
  return state
}

// `?? 0` and `| 0` never change a value here: typed arrays are read within their bounds only.
const compress = (state: State, bytes: Uint8Array, offset: number): void => {
  const w = words
  for (let i = 0; i < 16; i++) {
    const at = offset + i * 4
    w[i] = ((bytes[at] ?? 0) << 24) | ((bytes[at + 1] ?? 0) << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0)
  }
  for (let i = 16; i < 64; i++) {
    const w15 = w[i - 15] ?? 0
    const w2 = w[i - 2] ?? 0
    const s0 = ((w15 >>> 7) | (w15 << 25)) ^ ((w15 >>> 18) | (w15 << 14)) ^ (w15 >>> 3)
    const s1 = ((w2 >>> 17) | (w2 << 15)) ^ ((w2 >>> 19) | (w2 << 13)) ^ (w2 >>> 10)
    w[i] = ((w[i - 16] ?? 0) + s0 + (w[i - 7] ?? 0) + s1) | 0
  }
  let a = state[0] ?? 0
  let b = state[1] ?? 0
  let c = state[2] ?? 0
  let d = state[3] ?? 0
  let e = state[4] ?? 0
  let f = state[5] ?? 0
  let g = state[6] ?? 0
  let h = state[7] ?? 0
  for (let i = 0; i < 64; i++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + (constants[i] ?? 0) + (w[i] ?? 0)) | 0
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0
    h = g
    g = f
    f = e
    e = (d + t1) | 0
    d = c
    c = b
    b = a
    a = (t1 + t2) | 0
  }
  state[0] = (state[0] ?? 0) + a
  state[1] = (state[1] ?? 0) + b
  state[2] = (state[2] ?? 0) + c
  state[3] = (state[3] ?? 0) + d
  state[4] = (state[4] ?? 0) + e
  state[5] = (state[5] ?? 0) + f
  state[6] = (state[6] ?? 0) + g
  state[7] = (state[7] ?? 0) + h
}

const bytesOf = (state: State): Uint8Array => {
  const bytes = new Uint8Array(32)
  for (let i = 0; i < 32; i++) bytes[i] = (state[i >> 2] ?? 0) >>> (24 - 8 * (i & 3))
  return bytes
}

const digits = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"))

const hexOf = (state: State): string => {
  let hex = ""
  for (let i = 0; i < 32; i++) hex += digits[((state[i >> 2] ?? 0) >>> (24 - 8 * (i & 3))) & 0xff] ?? ""
  return hex
}

/** The UTF-8 bytes of a text. */
export const bytes = (text: string): Uint8Array => {
  const length = utf8(text)
  return scratch.slice(0, length)
}
