import * as Duration from "effect/Duration"
import type * as Schema from "effect/Schema"
import type { Fault } from "../Fault.ts"
import type { Frame } from "./wire.ts"

/** One thing that the server does on a connection. An answer, faulty or not, is a list of them. */
export type Action =
  | {
      readonly _tag: "Head"
      readonly status: number
      readonly headers: { readonly [name: string]: string }
      /** Whether the body is delimited by the end of the connection: neither a length nor chunks. */
      readonly untilClose: boolean
    }
  | { readonly _tag: "Send"; readonly bytes: Uint8Array }
  | { readonly _tag: "Wait"; readonly duration: Duration.Duration }
  /** Lets a reader in the same process see what was sent so far before anything else is. */
  | { readonly _tag: "Turn" }
  | { readonly _tag: "End" }
  | { readonly _tag: "Hang" }
  | { readonly _tag: "Close" }
  | { readonly _tag: "Reset" }

/** A response as it should be: what the faults are applied to. */
export interface Response {
  readonly status: number
  readonly headers: { readonly [name: string]: string }
  readonly body:
    | { readonly _tag: "Whole"; readonly json: Schema.Json; readonly parts: number }
    | { readonly _tag: "Stream"; readonly frames: ReadonlyArray<Frame> }
  readonly tokenEvery: Duration.Duration
  /** What is not JSON in this protocol's stream, its error event, and its error body for a status. */
  readonly malformed: string | Uint8Array
  readonly errorFrame: (body: Schema.Json) => string | Uint8Array
  readonly contentType?: string | undefined
  readonly error: (status: number | "overloaded") => Schema.Json
}

/** Decides everything that the server will do about one request. */
export const playback = (response: Response, fault: Fault | undefined): ReadonlyArray<Action> => {
  const body =
    response.body._tag === "Whole" ? whole(response, response.body) : streamed(response, response.body.frames)
  if (fault === undefined) return [...body.head("usual"), ...body.all, end]
  switch (fault._tag) {
    case "Status":
      return complete(response, fault.status, orElse(fault.body, response.error(fault.status)), fault.headers)
    case "ResetBeforeHeaders":
      return [{ _tag: "Reset" }]
    case "Silence":
      return [hang]
    case "SlowFirstToken":
      return body.slowly(fault.after)
    case "Stall":
      return [...body.head("usual"), ...body.before(fault.afterParts), hang]
    case "Cut":
      return [...body.head("usual"), ...body.before(fault.afterParts), { _tag: "Close" }]
    case "EndEarly":
      return [...body.head("chunks"), ...body.before(fault.afterParts), end]
    case "MalformedChunk":
      return [
        ...body.head("chunks"),
        ...body.before(fault.afterParts),
        send(body.malformed),
        ...body.after(fault.afterParts),
        end
      ]
    // The finish reason is left out where the answer is put together.
    case "MissingFinish":
      return [...body.head("usual"), ...body.all, end]
    case "MissingTerminator":
      return [...body.head(body.terminated.delimiter), ...body.terminated.actions, end]
    case "ErrorUnder200":
      return complete(response, 200, orElse(fault.body, response.error("overloaded")))
    case "ErrorFrame": {
      const error = orElse(fault.body, response.error("overloaded"))
      return response.body._tag === "Whole"
        ? complete(response, 200, error)
        : [...body.head("chunks"), ...body.before(fault.afterParts), send(response.errorFrame(error)), end]
    }
    case "WrongContentLength": {
      return [...body.head(size(body.all) + fault.missing), ...body.all, { _tag: "Close" }]
    }
    case "Trickle": {
      return [...body.head("chunks"), ...slices(bytesOf(body), fault.bytes, fault.every), end]
    }
    case "Truncate": {
      const bytes = bytesOf(body)
      const some = bytes.subarray(0, Math.floor(bytes.length * fault.share))
      return [...body.head("chunks"), ...(some.length === 0 ? [] : [send(some)]), end]
    }
    case "Empty":
      return [...body.head(response.body._tag === "Whole" ? 0 : "usual"), end]
    case "NotJson":
      return complete(response, 200, fault.html, { "content-type": "text/html; charset=utf-8" })
  }
}

/**
 * How the client learns where the body ends: the way that is `usual` for it (a length for a whole answer, chunks for a stream),
 * `chunks`, the end of the connection, or a length that somebody made up.
 */
type Delimiter = "usual" | "chunks" | "close" | number

/** A body that can be played up to any part. Waits for tokens are among its actions. */
interface Body {
  readonly head: (delimiter: Delimiter) => ReadonlyArray<Action>
  readonly all: ReadonlyArray<Action>
  readonly before: (afterParts: number) => ReadonlyArray<Action>
  readonly after: (afterParts: number) => ReadonlyArray<Action>
  readonly slowly: (after: Duration.Duration) => ReadonlyArray<Action>
  readonly terminated: { readonly delimiter: Delimiter; readonly actions: ReadonlyArray<Action> }
  readonly malformed: string | Uint8Array
}

const bytesOf = (body: Body): Uint8Array =>
  Buffer.concat(body.all.flatMap((action) => (action._tag === "Send" ? [action.bytes] : [])))

// `null` is a body too.
const orElse = (body: Schema.Json | undefined, standard: Schema.Json): Schema.Json =>
  body === undefined ? standard : body

const end: Action = { _tag: "End" }

const turn: Action = { _tag: "Turn" }

const hang: Action = { _tag: "Hang" }

const send = (bytes: string | Uint8Array): Action => ({
  _tag: "Send",
  bytes: typeof bytes === "string" ? Buffer.from(bytes) : bytes
})

const wait = (duration: Duration.Duration): ReadonlyArray<Action> =>
  Duration.isPositive(duration) ? [{ _tag: "Wait", duration }] : []

const size = (actions: ReadonlyArray<Action>): number =>
  actions.reduce((bytes, action) => (action._tag === "Send" ? bytes + action.bytes.length : bytes), 0)

const json = { "content-type": "application/json" }

const eventStream = (response: Response) => ({
  "content-type": response.contentType ?? "text/event-stream; charset=utf-8",
  "cache-control": "no-cache"
})

const headOf = (response: Response, type: Response["headers"], delimiter: Exclude<Delimiter, "usual">): Action => ({
  _tag: "Head",
  status: response.status,
  headers: {
    ...response.headers,
    ...type,
    ...(typeof delimiter === "number" ? { "content-length": String(delimiter) } : {})
  },
  untilClose: delimiter === "close"
})

const complete = (
  response: Response,
  status: number,
  body: Schema.Json,
  headers?: Response["headers"]
): ReadonlyArray<Action> => {
  const bytes = Buffer.from(typeof body === "string" ? body : JSON.stringify(body))
  const type = typeof body === "string" ? { "content-type": "text/plain; charset=utf-8" } : json
  return [
    {
      _tag: "Head",
      status,
      headers: { ...response.headers, ...type, "content-length": String(bytes.length), ...lowerCased(headers ?? {}) },
      untilClose: false
    },
    send(bytes),
    end
  ]
}

const lowerCased = (headers: Response["headers"]): Response["headers"] =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))

const whole = (
  response: Response,
  { json: value, parts }: { readonly json: Schema.Json; readonly parts: number }
): Body => {
  const bytes = Buffer.from(JSON.stringify(value))
  // Whatever strikes "after the last part" still strikes before the end, so the last byte is never among the unharmed ones.
  const at = (afterParts: number) =>
    Math.min(bytes.length - 1, Math.floor((bytes.length * afterParts) / Math.max(1, parts)))
  const pause = wait(Duration.times(response.tokenEvery, Math.max(0, parts - 1)))
  // A model writes a whole answer before the server sends any of it.
  const head = (delimiter: Delimiter) => [
    ...pause,
    headOf(response, json, delimiter === "usual" ? bytes.length : delimiter)
  ]
  const all = [send(bytes)]
  return {
    head,
    all,
    before: (afterParts) => (at(afterParts) === 0 ? [] : [send(bytes.subarray(0, at(afterParts)))]),
    after: (afterParts) => [send(bytes.subarray(at(afterParts)))],
    slowly: (after) => [...wait(after), ...head("usual"), ...all, end],
    terminated: { delimiter: "close", actions: all },
    malformed: "\u0000"
  }
}

const streamed = (response: Response, frames: ReadonlyArray<Frame>): Body => {
  const pause = wait(response.tokenEvery)
  const first = frames.findIndex((frame) => frame.kind === "part")
  const played = (from: number, to: number): ReadonlyArray<Action> =>
    frames
      .slice(from, to)
      .flatMap((frame, index) =>
        frame.kind === "part" && from + index !== first ? [...pause, send(frame.text)] : [send(frame.text)]
      )
  const at = (afterParts: number): number => {
    if (afterParts === 0) return frames.findIndex((frame) => frame.kind !== "preamble")
    let seen = 0
    const reached = frames.findIndex((frame) => frame.kind === "part" && ++seen === afterParts)
    return reached === -1 ? endOfContent(frames) : reached + 1
  }
  const head = (delimiter: Delimiter) => [
    headOf(response, eventStream(response), delimiter === "usual" ? "chunks" : delimiter)
  ]
  const all = played(0, frames.length)
  return {
    head,
    all,
    before: (afterParts) => played(0, at(afterParts)),
    after: (afterParts) => played(at(afterParts), frames.length),
    slowly: (after) => [...head("chunks"), ...played(0, at(0)), ...wait(after), ...played(at(0), frames.length), end],
    terminated: {
      delimiter: "chunks",
      actions: played(0, frames.length - (frames.at(-1)?.kind === "terminator" ? 1 : 0))
    },
    malformed: response.malformed
  }
}

const endOfContent = (frames: ReadonlyArray<Frame>): number => {
  const last = frames.findLastIndex((frame) => frame.kind === "part")
  return last === -1 ? frames.findIndex((frame) => frame.kind !== "preamble") : last + 1
}

const slices = (bytes: Uint8Array, length: number, every: Duration.Duration): ReadonlyArray<Action> =>
  Array.from({ length: Math.ceil(bytes.length / length) }, (_, index) => [
    ...(index === 0 ? [] : wait(every)),
    send(bytes.subarray(index * length, (index + 1) * length)),
    turn
  ]).flat()
