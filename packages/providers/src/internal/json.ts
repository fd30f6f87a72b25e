import * as Option from "effect/Option"
import * as Result from "effect/Result"

/** An object out of a text that somebody else wrote: every field may be absent or anything. */
export type JsonObject = { readonly [key: string]: unknown }

export const isObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The value as an object, or an object without fields, so that a path into untrusted JSON reads without questions. */
export const object = (value: unknown): JsonObject => (isObject(value) ? value : nothing)

const nothing: JsonObject = {}

export const array = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

export const string = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

/** The value if it counts something, such as tokens. */
export const count = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined

export const parse = (text: string): Option.Option<unknown> =>
  Result.getSuccess(Result.try((): unknown => JSON.parse(text)))

/** The value as JSON text. What JSON cannot express (a cycle, a `bigint`, a function) is a `None`. */
export const stringify = (value: unknown): Option.Option<string> =>
  Option.flatMap(Result.getSuccess(Result.try((): string | undefined => JSON.stringify(value))), Option.fromUndefinedOr)

/** The value as JSON text, or nothing when it cannot be. */
export const textOf = (value: unknown): string => Option.getOrElse(stringify(value), () => "")
