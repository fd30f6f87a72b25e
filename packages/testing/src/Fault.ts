/**
 * What an {@link Upstream} does wrong: the ways in which real providers fail, one value for each.
 *
 * A fault changes how an answer travels, never what was asked. Each applies to whole answers and to streams; where the two differ,
 * the constructor says how. `afterParts` counts the tokens of text (and pieces of a tool call's parameters) that arrive unharmed:
 * with 0 a stream still sends its preamble (role chunk, `message_start`) and a whole answer its status line and headers; a number
 * beyond the length of the answer strikes after its last part, before its end.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type * as Schema from "effect/Schema"

/**
 * One way to misbehave. Build it with the constructors of this module.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | { readonly _tag: "Status"; readonly status: number; readonly headers: Headers; readonly body: Body | undefined }
  | { readonly _tag: "ResetBeforeHeaders" }
  | { readonly _tag: "Silence" }
  | { readonly _tag: "SlowFirstToken"; readonly after: Duration.Duration }
  | { readonly _tag: "Stall"; readonly afterParts: number }
  | { readonly _tag: "Cut"; readonly afterParts: number }
  | { readonly _tag: "EndEarly"; readonly afterParts: number }
  | { readonly _tag: "MalformedChunk"; readonly afterParts: number }
  | { readonly _tag: "MissingFinish" }
  | { readonly _tag: "MissingTerminator" }
  | { readonly _tag: "ErrorUnder200"; readonly body: Body | undefined }
  | { readonly _tag: "ErrorFrame"; readonly afterParts: number; readonly body: Body | undefined }
  | { readonly _tag: "WrongContentLength"; readonly missing: number }
  | { readonly _tag: "Trickle"; readonly bytes: number; readonly every: Duration.Duration }
  | { readonly _tag: "Truncate"; readonly share: number }
  | { readonly _tag: "Empty" }
  | { readonly _tag: "NotJson"; readonly html: string }

/**
 * A body: text is sent as it is, everything else as JSON.
 *
 * @category models
 * @since 0.1.0
 */
export type Body = Schema.Json

/**
 * Headers of an answer, by name.
 *
 * @category models
 * @since 0.1.0
 */
export interface Headers {
  readonly [name: string]: string
}

/**
 * Answers with a status of your choice.
 *
 * **Details**
 *
 * Without `body` the answer has the error body that the protocol has for this status. The headers come on top of the usual ones
 * (request id, rate limits) and replace those of the same name.
 *
 * **Example** (A rate limit that tells when to come back)
 *
 * ```ts import.meta.vitest
 * import { Fault } from "@llm-resilience/testing"
 *
 * const limited = Fault.status(429, { headers: { "retry-after": "3" } })
 *
 * limited._tag // => "Status"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const status = (
  status: number,
  options?: { readonly headers?: Headers | undefined; readonly body?: Body | undefined }
): Fault => {
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new RangeError(`Fault.status: status must be an integer from 200 to 599, got ${status}`)
  }
  return { _tag: "Status", status, headers: options?.headers ?? {}, body: options?.body }
}

/**
 * Reads the request and resets the connection without a word (`ECONNRESET`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const resetBeforeHeaders: Fault = { _tag: "ResetBeforeHeaders" }

/**
 * Reads the request and never answers; the connection stays open until the client leaves.
 *
 * @category constructors
 * @since 0.1.0
 */
export const silence: Fault = { _tag: "Silence" }

/**
 * Waits before the first token. A stream sends its headers and its preamble at once, a whole answer sends nothing until then.
 *
 * @category constructors
 * @since 0.1.0
 */
export const slowFirstToken = (after: Duration.Input): Fault => ({
  _tag: "SlowFirstToken",
  after: Duration.fromInputUnsafe(after)
})

/**
 * Falls silent after some parts and keeps the connection open until the client leaves. A whole answer stops in its body.
 *
 * @category constructors
 * @since 0.1.0
 */
export const stall = (afterParts: number): Fault => ({ _tag: "Stall", afterParts: parts("stall", afterParts) })

/**
 * Closes the connection after some parts, in the middle of the stream or the body.
 *
 * @category constructors
 * @since 0.1.0
 */
export const cut = (afterParts: number): Fault => ({ _tag: "Cut", afterParts: parts("cut", afterParts) })

/**
 * Ends the response properly after some parts, without a finish reason and without a terminator: to HTTP it is complete. A whole
 * answer is JSON that stops in the middle.
 *
 * @category constructors
 * @since 0.1.0
 */
export const endEarly = (afterParts: number): Fault => ({
  _tag: "EndEarly",
  afterParts: parts("endEarly", afterParts)
})

/**
 * Sends something that is not JSON after some parts and then goes on as if nothing had happened. A stream gets one half-written
 * event in between, a whole answer a byte that JSON forbids.
 *
 * @category constructors
 * @since 0.1.0
 */
export const malformedChunk = (afterParts: number): Fault => ({
  _tag: "MalformedChunk",
  afterParts: parts("malformedChunk", afterParts)
})

/**
 * Leaves out the finish reason. A stream still ends with its terminator (`[DONE]`, `message_stop`), a whole answer says `null`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const missingFinish: Fault = { _tag: "MissingFinish" }

/**
 * Leaves out what comes after a proper finish: `[DONE]` or `message_stop`. A whole answer comes without a length, delimited only
 * by the end of the connection.
 *
 * **Gotchas**
 *
 * Both are complete answers: a client should accept them.
 *
 * @category constructors
 * @since 0.1.0
 */
export const missingTerminator: Fault = { _tag: "MissingTerminator" }

/**
 * Answers with status 200 and an error as JSON, even where a stream was asked for. Without `body` it is the protocol's own
 * "overloaded".
 *
 * @category constructors
 * @since 0.1.0
 */
export const errorUnder200 = (body?: Body): Fault => ({ _tag: "ErrorUnder200", body })

/**
 * Ends a stream with an error event after some parts. Without `body` it is the protocol's own "overloaded". A whole answer has no
 * events: it is the same as {@link errorUnder200}.
 *
 * @category constructors
 * @since 0.1.0
 */
export const errorFrame = (afterParts: number, body?: Body): Fault => ({
  _tag: "ErrorFrame",
  afterParts: parts("errorFrame", afterParts),
  body
})

/**
 * Promises more bytes than it sends: `content-length` is too large by `missing`, 1 unless told, and the connection is closed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const wrongContentLength = (missing = 1): Fault => ({
  _tag: "WrongContentLength",
  missing: atLeast("wrongContentLength: missing", missing, 1)
})

/**
 * Sends the complete answer a few bytes at a time, and thereby splits events, lines and characters of several bytes anywhere.
 *
 * **Details**
 *
 * Every slice is a chunk of its own on the wire. `every`, the time between two slices, is zero unless told.
 *
 * @category constructors
 * @since 0.1.0
 */
export const trickle = (bytes: number, every: Duration.Input = 0): Fault => ({
  _tag: "Trickle",
  bytes: atLeast("trickle: bytes", bytes, 1),
  every: Duration.fromInputUnsafe(every)
})

/**
 * Ends the response properly after a share of its bytes, from 0 to 1: anywhere within an event, a line or a character.
 *
 * @category constructors
 * @since 0.1.0
 */
export const truncate = (share: number): Fault => {
  if (!(share >= 0 && share <= 1)) throw new RangeError(`Fault.truncate: share must be from 0 to 1, got ${share}`)
  return { _tag: "Truncate", share }
}

/**
 * Answers with status 200 and nothing else: a stream without events, a body without bytes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const empty: Fault = { _tag: "Empty" }

/**
 * Answers with status 200 and a page of HTML, as proxies and captive portals do.
 *
 * @category constructors
 * @since 0.1.0
 */
export const notJson = (html = "<!doctype html><html><body><h1>Sign in to the network</h1></body></html>"): Fault => ({
  _tag: "NotJson",
  html
})

const parts = (name: string, value: number): number => atLeast(`${name}: afterParts`, value, 0)

const atLeast = (name: string, value: number, minimum: number): number => {
  if (!Number.isInteger(value) || value < minimum) {
    throw new RangeError(`Fault.${name} must be an integer >= ${minimum}, got ${value}`)
  }
  return value
}
