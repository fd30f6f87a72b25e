/**
 * The table that says what an error means: retry, fall over, what the breaker records, and whether the provider rests.
 *
 * It is data. Every policy looks errors up here, so overriding one row changes all of them consistently.
 *
 * **Example** (Routing content-policy refusals to the next provider)
 *
 * ```ts import.meta.vitest
 * import { Decision, ProviderError } from "@llm-resilience/core"
 *
 * const table = Decision.override({ ContentPolicy: { fallOver: "yes" } })
 * const error = new ProviderError.APIError({ provider: "openai", reason: "ContentPolicy", description: "flagged" })
 *
 * Decision.of(Decision.defaults, error).fallOver // => "no"
 * Decision.of(table, error).fallOver // => "yes"
 * ```
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as ProviderError from "./ProviderError.ts"

/**
 * What follows from one kind of error.
 *
 * **Details**
 *
 * - `retry`: ask the same provider again? `yes` within the retry policy; `ifShort` only when it named a short wait that fits
 *   the deadline; `ifLast` only when no other step is left, because waiting the same time twice helps nobody; `no`.
 * - `fallOver`: ask the next provider? `largerWindow` means only one whose context window is larger or unknown.
 * - `breaker`: what the circuit breaker records. `success` is for errors that prove the provider healthy.
 * - `rest`: `coolDown` leaves the provider alone for as long as it asked, `isolate` until its reset or until somebody acts.
 *
 * @category models
 * @since 0.1.0
 */
export interface Decision {
  readonly retry: "yes" | "ifShort" | "ifLast" | "no"
  readonly fallOver: "yes" | "largerWindow" | "no"
  readonly breaker: "failure" | "success" | "ignored"
  readonly rest: "none" | "coolDown" | "isolate"
}

/**
 * One decision for every kind of error.
 *
 * @category models
 * @since 0.1.0
 */
export type Table = { readonly [K in ProviderError.Kind]: Decision }

const transient: Decision = { retry: "yes", fallOver: "yes", breaker: "failure", rest: "none" }
const callersFault: Decision = { retry: "no", fallOver: "no", breaker: "success", rest: "none" }
const badOutput: Decision = { retry: "yes", fallOver: "yes", breaker: "ignored", rest: "none" }
const account: Decision = { retry: "no", fallOver: "yes", breaker: "ignored", rest: "isolate" }

/**
 * The decisions that hold unless you override them.
 *
 * **Details**
 *
 * Overload, server and network errors, unreadable answers and cut streams are failures: retried, then fallen over. A timeout is a
 * failure that falls over at once. A rate limit is not a failure of the provider: it cools down. Credentials, permissions and
 * quota isolate the provider, because another call cannot cure them. An invalid request proves the provider healthy and would
 * fail everywhere. A refusal by a safety system is not routed around.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaults: Table = {
  Timeout: { retry: "ifLast", fallOver: "yes", breaker: "failure", rest: "none" },
  RateLimited: { retry: "ifShort", fallOver: "yes", breaker: "ignored", rest: "coolDown" },
  Overloaded: transient,
  ServerError: transient,
  Network: transient,
  InvalidResponse: transient,
  StreamCut: transient,
  Authentication: account,
  PermissionDenied: account,
  QuotaExhausted: account,
  ModelNotFound: { retry: "no", fallOver: "yes", breaker: "ignored", rest: "isolate" },
  ContextLengthExceeded: { retry: "no", fallOver: "largerWindow", breaker: "success", rest: "none" },
  ContentPolicy: callersFault,
  InvalidRequest: callersFault,
  Refusal: callersFault,
  Loop: badOutput,
  EmptyOutput: badOutput,
  TruncatedOutput: { retry: "no", fallOver: "yes", breaker: "ignored", rest: "none" },
  SchemaMismatch: badOutput
}

/**
 * Rows, or single columns of rows, that differ from another table.
 *
 * @category models
 * @since 0.1.0
 */
export type Overrides = { readonly [K in ProviderError.Kind]?: Partial<Decision> }

/**
 * Returns a table that differs from `base` (the defaults, unless given) in the given rows.
 *
 * @category constructors
 * @since 0.1.0
 */
export const override = (overrides: Overrides, base: Table = defaults): Table => {
  const table: { [K in ProviderError.Kind]: Decision } = { ...base }
  for (const kind of Object.keys(overrides) as Array<ProviderError.Kind>) {
    if (!(kind in base)) throw new RangeError(`Decision.override: there is no kind of error named ${kind}`)
    table[kind] = { ...base[kind], ...overrides[kind] }
  }
  return table
}

/**
 * Looks an error up.
 *
 * @category accessors
 * @since 0.1.0
 */
export const of = (table: Table, error: ProviderError.ProviderError): Decision => table[ProviderError.kind(error)]

/**
 * The table in force. Policies read it once, when they are built.
 *
 * @category references
 * @since 0.1.0
 */
export const CurrentTable = Context.Reference<Table>("@llm-resilience/core/Decision/CurrentTable", {
  defaultValue: () => defaults
})

/**
 * Layer that overrides rows of the table for everything built on top of it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (overrides: Overrides): Layer.Layer<never> => Layer.succeed(CurrentTable, override(overrides))
