import { Crc32 } from "@smithy/core/checksum"
import { EventStreamCodec, type MessageHeaders } from "@smithy/core/event-streams"
import { fromUtf8, toUtf8 } from "@smithy/core/serde"
import * as Result from "effect/Result"
import { framing, type Framing, type Sink } from "./framing.ts"
import * as Json from "./json.ts"

const codec = new EventStreamCodec(toUtf8, fromUtf8)

/** Binary events of AWS. An exception becomes an event of the name `error`, with its type among the fields of its body. */
export const awsFraming: Framing = framing<Uint8Array>({
  pieces: () => (bytes) => bytes,
  // Every message begins with its length, and none is so long that its first byte is a letter or a bracket.
  begins: (piece) => (piece[0] === undefined ? "" : String.fromCharCode(piece[0])),
  text: (pieces) => toUtf8(joined(pieces)),
  parser: (sink) => {
    const prelude = new Uint8Array(12)
    let filled = 0
    let message: Uint8Array | undefined
    let dead = false

    const broken = (description: string): void => {
      dead = true
      sink.broken(description)
    }

    // The length comes first, so each byte is copied once, however small the pieces are.
    const fill = (target: Uint8Array, piece: Uint8Array, from: number): number => {
      const bytes = piece.subarray(from, from + target.length - filled)
      target.set(bytes, filled)
      filled += bytes.length
      return from + bytes.length
    }

    const feed = (piece: Uint8Array): void => {
      if (dead) return
      for (let at = 0; at < piece.length;) {
        if (message === undefined) {
          at = fill(prelude, piece, at)
          if (filled < prelude.length) return
          const length = lengthOf(prelude)
          if (length === undefined) return broken("A message of the event stream is corrupt")
          if (length > sink.maxEventBytes) return broken(`An event is longer than ${sink.maxEventBytes} bytes`)
          message = new Uint8Array(length)
          message.set(prelude)
        }
        at = fill(message, piece, at)
        if (filled < message.length) return
        const decoded = decode(message)
        if (Result.isFailure(decoded)) return broken("A message of the event stream is corrupt")
        filled = 0
        message = undefined
        announce(decoded.success, sink)
      }
    }
    return { feed, end: () => {} }
  }
})

// Two lengths and two checksums.
const shortest = 16

/** The length of a message, if its prelude is sound: nobody shall wait for bytes that a broken length promises. */
const lengthOf = (prelude: Uint8Array): number | undefined => {
  const view = new DataView(prelude.buffer)
  const length = view.getUint32(0)
  const checksum = new Crc32()
  checksum.update(prelude.subarray(0, 8))
  return checksum.digestSync() === view.getUint32(8) && length >= shortest ? length : undefined
}

const decode = (message: Uint8Array) => Result.try(() => codec.decode(message))

const announce = (message: { readonly headers: MessageHeaders; readonly body: Uint8Array }, sink: Sink): void => {
  const text = (name: string): string => {
    const header = message.headers[name]
    return header?.type === "string" ? header.value : ""
  }
  const body = toUtf8(message.body)
  switch (text(":message-type")) {
    case "exception":
      return sink.event("error", Json.textOf({ ...fieldsOf(body), type: text(":exception-type") }))
    case "error":
      return sink.event("error", JSON.stringify({ message: text(":error-message"), type: text(":error-code") }))
    default:
      return sink.event(text(":event-type"), body)
  }
}

const fieldsOf = (body: string): Json.JsonObject => {
  const json = Json.parse(body)
  return json._tag === "Some" && Json.isObject(json.value) ? json.value : { message: body }
}

const joined = (pieces: ReadonlyArray<Uint8Array>): Uint8Array => {
  const whole = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0))
  let at = 0
  for (const piece of pieces) {
    whole.set(piece, at)
    at += piece.length
  }
  return whole
}
