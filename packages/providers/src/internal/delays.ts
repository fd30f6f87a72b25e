import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

/** Response headers as `effect/http` gives them: lower-case names. */
export type Headers = { readonly [name: string]: string | undefined }

// Nobody waits longer than a billing period, and a number from outside must not overflow whoever adds it to a clock.
const longestMillis = 31 * 24 * 60 * 60 * 1000

const unitMillis: { readonly [unit: string]: number } = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000
}

const durationText = /^(?:\d{1,15}(?:\.\d{1,15})?(?:ns|us|µs|ms|s|m|h|d)){1,6}$/
const durationPiece = /(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)/g
const numberText = /^\d{1,15}(?:\.\d{1,15})?$/

const bounded = (millis: number): Duration.Duration | undefined =>
  Number.isFinite(millis) && millis >= 0 ? Duration.millis(Math.min(millis, longestMillis)) : undefined

/** Parses what providers write into headers and sentences: `120ms`, `6m0s`, `1h2m3.5s`. */
export const parseDuration = (text: string): Duration.Duration | undefined => {
  const compact = text.trim().toLowerCase()
  if (!durationText.test(compact)) return undefined
  let millis = 0
  for (const [, amount, unit] of compact.matchAll(durationPiece)) {
    millis += Number(amount) * (unitMillis[unit ?? "s"] ?? 1000)
  }
  return bounded(millis)
}

const httpDate = /^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? /i
const isoDate = /^\d{4}-\d{2}-\d{2}t\d{2}:\d{2}/i

const parseDate = (text: string, now: number): Duration.Duration | undefined => {
  const trimmed = text.trim()
  if (trimmed.length > 40 || !(httpDate.test(trimmed) || isoDate.test(trimmed))) return undefined
  return Option.getOrUndefined(
    Option.map(DateTime.make(trimmed), (date) => bounded(Math.max(0, DateTime.toEpochMillis(date) - now)))
  )
}

// A zero says nothing: Azure sends `retry-after-ms: 0` beside `retry-after: 1`.
const positive = (duration: Duration.Duration | undefined): Duration.Duration | undefined =>
  duration !== undefined && Duration.isPositive(duration) ? duration : undefined

/** Reads `retry-after-ms` and `retry-after` (seconds or an HTTP date). */
export const fromHeaders = (headers: Headers, now: number): Duration.Duration | undefined => {
  const millis = headers["retry-after-ms"]?.trim()
  const exact = millis !== undefined && numberText.test(millis) ? positive(bounded(Number(millis))) : undefined
  if (exact !== undefined) return exact
  const after = headers["retry-after"]?.trim()
  if (after === undefined) return undefined
  return positive(
    numberText.test(after) ? bounded(Number(after) * 1000) : (parseDuration(after) ?? parseDate(after, now))
  )
}

const advice =
  /\b(?:try again|retry|retrying|wait|resets?)(?: your request| this request)? ?(?:after|in|for|at least)? ?(?:about |approximately )?((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+)(?![a-z\d])/
const adviceInWords =
  /\b(?:try again|retry|wait|resets?)[a-z ]{0,20} (\d{1,9}(?:\.\d{1,9})?) ?(milliseconds?|seconds?|secs?|minutes?|mins?|hours?|days?)\b/
const regainsAccess = /\bregain access on (\d{4}-\d{2}-\d{2})(?: at (\d{2}:\d{2}))?/

/** Finds the wait inside an error sentence, which has to be in lower case. */
export const fromText = (text: string, now: number): Duration.Duration | undefined => {
  const short = advice.exec(text)?.[1]
  if (short !== undefined) return positive(parseDuration(short))
  const [, amount, unit] = adviceInWords.exec(text) ?? []
  if (amount !== undefined && unit !== undefined) {
    const name = unit.startsWith("mil") ? "ms" : unit.charAt(0)
    return positive(bounded(Number(amount) * (unitMillis[name] ?? 1000)))
  }
  const [, day, time] = regainsAccess.exec(text) ?? []
  return day === undefined ? undefined : positive(parseDate(`${day}T${time ?? "00:00"}:00Z`, now))
}

/** Reads the limits that providers report: OpenAI's `x-ratelimit-*` and Anthropic's `anthropic-ratelimit-*`. */
export const limits = (headers: Headers, now: number): LlmResponse.Limits | undefined => {
  const found: { -readonly [K in keyof LlmResponse.Limits]: LlmResponse.Limit } = {}
  for (const fields of limitFields) {
    const limit = limitOf(headers, fields, now)
    if (limit !== undefined) found[fields.key] = limit
  }
  return Object.keys(found).length === 0 ? undefined : found
}

const fieldsOf = (key: keyof LlmResponse.Limits, name: string) => {
  const field = (field: "limit" | "remaining" | "reset"): ReadonlyArray<string> => [
    `anthropic-ratelimit-${name}-${field}`,
    `x-ratelimit-${field}-${name}`,
    // OpenRouter has one limit and does not say of what: it counts requests.
    ...(name === "requests" ? [`x-ratelimit-${field}`] : [])
  ]
  return { key, limit: field("limit"), remaining: field("remaining"), reset: field("reset") }
}

const limitFields = [
  fieldsOf("requests", "requests"),
  fieldsOf("tokens", "tokens"),
  fieldsOf("inputTokens", "input-tokens"),
  fieldsOf("outputTokens", "output-tokens")
]

const limitOf = (
  headers: Headers,
  fields: (typeof limitFields)[number],
  now: number
): LlmResponse.Limit | undefined => {
  const limit = quantity(first(headers, fields.limit))
  const remaining = quantity(first(headers, fields.remaining))
  const reset = resetOf(first(headers, fields.reset), now)
  if (limit === undefined && remaining === undefined && reset === undefined) return undefined
  return {
    ...(limit === undefined ? undefined : { limit }),
    ...(remaining === undefined ? undefined : { remaining }),
    ...(reset === undefined ? undefined : { reset })
  }
}

const first = (headers: Headers, names: ReadonlyArray<string>): string | undefined => {
  for (const name of names) {
    const value = headers[name]
    if (value !== undefined) return value
  }
  return undefined
}

const quantity = (text: string | undefined): number | undefined =>
  text !== undefined && numberText.test(text.trim()) ? Number(text) : undefined

const resetOf = (text: string | undefined, now: number): Duration.Duration | undefined => {
  if (text === undefined) return undefined
  if (!numberText.test(text.trim())) return parseDuration(text) ?? parseDate(text, now)
  const value = Number(text)
  // A bare number is seconds to wait, unless it is so large that it can only be a point in time (in seconds or milliseconds).
  if (value > 1e12) return bounded(Math.max(0, value - now))
  return value > 1e9 ? bounded(Math.max(0, value * 1000 - now)) : bounded(value * 1000)
}

/** The wait until a limit without anything remaining is filled again. */
export const untilReset = (limits: LlmResponse.Limits | undefined): Duration.Duration | undefined =>
  limits === undefined
    ? undefined
    : Object.values(limits).reduce<Duration.Duration | undefined>((longest, limit: LlmResponse.Limit | undefined) => {
        const reset = limit?.remaining === 0 ? positive(limit.reset) : undefined
        if (reset === undefined) return longest
        return longest === undefined ? reset : Duration.max(longest, reset)
      }, undefined)
