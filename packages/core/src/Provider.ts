/**
 * One upstream model: ask it whole or streamed. The unit that policies wrap and that a fallback chain joins.
 *
 * A resilient provider is a provider again, so everything composes in any order and at any level. {@link make} turns two plain
 * functions into a provider that keeps the contract which the policies rely on:
 *
 * - nothing leaves it but {@link Failure}; a defect becomes an `APIError` `ServerError` that carries its cause;
 * - a stream ends with a `finish` part or with an error, never as a shorter success;
 * - one of `generate` and `stream` is enough, the other follows from it.
 *
 * @since 0.1.0
 */
import type * as Response from "effect/ai/Response"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import type { SkipReason } from "./Attempt.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import type { LlmUnavailable } from "./LlmUnavailable.ts"
import * as ProviderError from "./ProviderError.ts"

/**
 * Everything that a call to a provider can fail with: an error of an upstream model, or the refusal of a policy to call it.
 *
 * @category models
 * @since 0.1.0
 */
export type Failure = ProviderError.ProviderError | LlmUnavailable

/**
 * What a model can do, as far as it is known. What is absent is unknown and never a reason to skip the step.
 *
 * **Details**
 *
 * `contextWindow` and `maxOutputTokens` are in tokens. `prefill` says that the model goes on where an assistant message at the end of the
 * prompt stops, which lets a chain continue a stream that broke.
 *
 * @category models
 * @since 0.1.0
 */
export interface Capabilities {
  readonly contextWindow?: number | undefined
  readonly maxOutputTokens?: number | undefined
  readonly tools?: boolean | undefined
  readonly images?: boolean | undefined
  readonly files?: boolean | undefined
  readonly jsonSchema?: boolean | undefined
  readonly streaming?: boolean | undefined
  readonly prefill?: boolean | undefined
}

/**
 * How one provider is doing, for humans and dashboards.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly provider: string
  readonly model: string
  readonly circuit?: CircuitBreaker.State | undefined
  /** Why the step would be skipped right now, if it would be. */
  readonly unavailable?: SkipReason | undefined
}

/**
 * One upstream model, or several that act as one.
 *
 * **Details**
 *
 * `id` names the step in errors, events and configuration and is unique within a chain. `availability` answers, without calling
 * the provider, whether it would take this request now. `generate` and `stream` need nothing from the context: what an adapter
 * needs it takes when its layer is built.
 *
 * @category models
 * @since 0.1.0
 */
export interface Provider {
  readonly id: string
  readonly model: string
  readonly capabilities: Capabilities
  readonly availability: (request: LlmRequest) => Effect.Effect<SkipReason | undefined>
  readonly generate: (request: LlmRequest) => Effect.Effect<LlmResponse.LlmResponse, Failure>
  readonly stream: (request: LlmRequest) => Stream.Stream<LlmResponse.LlmStreamPart, Failure>
  readonly status: Effect.Effect<ReadonlyArray<Status>>
  /** Whether `request.expiresAt` is kept without help. {@link Timeouts} makes it so; a chain adds it where it is missing. */
  readonly keepsDeadline: boolean
  /** The breakers inside, by the id of the provider they guard, so that an operator can isolate and reset. */
  readonly circuits: ReadonlyMap<string, CircuitBreaker.CircuitBreaker>
}

/**
 * Service tag of {@link Provider}: each adapter exports a `layer` that provides it.
 *
 * @category services
 * @since 0.1.0
 */
export const Provider: Context.Service<Provider, Provider> = Context.Service("@llm-resilience/core/Provider")

/**
 * Creates a provider from what talks to the model.
 *
 * **Details**
 *
 * Give `generate`, `stream`, or both. From `stream` alone, `generate` collects the stream; from `generate` alone, `stream` replays
 * the whole answer as parts. `capabilities` default to unknown.
 *
 * **Example** (A provider that is always up)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmRequest, LlmResponse, Provider } from "@llm-resilience/core"
 *
 * const echo = Provider.make({
 *   id: "echo",
 *   model: "echo-1",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * })
 *
 * const response = await Effect.runPromise(echo.generate(LlmRequest.make({ prompt: "Hi" })))
 *
 * response.text // => "Hello!"
 * response.served.provider // => "echo"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: {
    readonly id: string
    readonly model: string
    readonly capabilities?: Capabilities | undefined
  } & (
    | { readonly generate: Generate; readonly stream?: Streaming | undefined }
    | { readonly generate?: undefined; readonly stream: Streaming }
  )
): Provider => {
  const { id, model } = options
  if (id === "") throw new RangeError("Provider.make: id must not be empty")
  const served: LlmResponse.Served = { provider: id, model, from: "provider", attempts: [] }
  const respond = (answer: Answer) => LlmResponse.make({ ...answer, served })
  const generate = options.generate
  const stream = options.stream === undefined ? undefined : complete(id, options.stream)
  const whole = (request: LlmRequest): Effect.Effect<LlmResponse.LlmResponse, ProviderError.ProviderError> =>
    generate === undefined
      ? Effect.map(Stream.runCollect(stream === undefined ? Stream.empty : stream(request)), (parts) =>
          respond({ content: LlmResponse.collect(parts) })
        )
      : Effect.map(
          Effect.catchCause(
            Effect.suspend(() => generate(request)),
            (cause) => Effect.failCause(withoutDefects(id, cause))
          ),
          respond
        )
  return {
    id,
    model,
    capabilities: options.capabilities ?? {},
    availability: () => Effect.undefined,
    generate: whole,
    stream: stream ?? ((request) => Stream.unwrap(Effect.map(whole(request), replay))),
    status: Effect.succeed([{ provider: id, model }]),
    keepsDeadline: false,
    circuits: new Map()
  }
}

/**
 * The content of an answer and, when the provider tells, its limits.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  readonly content: ReadonlyArray<Response.PartEncoded>
  readonly limits?: LlmResponse.Limits | undefined
}

/**
 * Asks a model for a whole answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Generate = (request: LlmRequest) => Effect.Effect<Answer, ProviderError.ProviderError>

/**
 * Asks a model for a streamed answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Streaming = (request: LlmRequest) => Stream.Stream<LlmResponse.LlmStreamPart, ProviderError.ProviderError>

const withoutDefects = <E>(id: string, cause: Cause.Cause<E>): Cause.Cause<E | ProviderError.APIError> => {
  const defect = cause.reasons.find(Cause.isDieReason)
  return defect === undefined
    ? cause
    : Cause.fail(
        new ProviderError.APIError({
          provider: id,
          reason: "ServerError",
          description: "The provider's own code died",
          cause: defect.defect
        })
      )
}

// A stream that stops without `finish` was cut, however politely the connection was closed; what comes after `finish` is noise.
type PartsPull = Pull.Pull<Arr.NonEmptyReadonlyArray<LlmResponse.LlmStreamPart>, ProviderError.ProviderError>

const complete =
  (id: string, stream: Streaming): Streaming =>
  (request) =>
    Stream.transformPull(
      Stream.catchCause(
        Stream.suspend(() => stream(request)),
        (cause) => Stream.failCause(withoutDefects(id, cause))
      ),
      (pull) =>
        Effect.sync(() => {
          let finished = false
          const cut = Effect.suspend(() =>
            Effect.fail(
              new ProviderError.APIError({
                provider: id,
                reason: "StreamCut",
                description: "The stream ended without a finish part"
              })
            )
          )
          const next = Effect.map(
            Pull.catchDone(pull, () => cut),
            (parts) => {
              const end = parts.findIndex((part) => part.type === "finish")
              if (end === -1) return parts
              finished = true
              const kept = parts.slice(0, end + 1)
              return Arr.isReadonlyArrayNonEmpty(kept) ? kept : parts
            }
          )
          // Once it is finished, nobody waits for the connection to close.
          return Effect.suspend((): PartsPull => (finished ? Cause.done() : next))
        })
    )

/**
 * Replays a whole answer as the parts of a stream.
 *
 * @category combinators
 * @since 0.1.0
 */
export const replay = (response: LlmResponse.LlmResponse): Stream.Stream<LlmResponse.LlmStreamPart> =>
  Stream.fromIterable(
    response.content.flatMap((part, index): ReadonlyArray<LlmResponse.LlmStreamPart> => {
      const id = String(index)
      switch (part.type) {
        case "text":
          return [
            { type: "text-start", id, metadata: part.metadata },
            { type: "text-delta", id, delta: part.text },
            { type: "text-end", id }
          ]
        case "reasoning":
          return [
            { type: "reasoning-start", id, metadata: part.metadata },
            { type: "reasoning-delta", id, delta: part.text },
            { type: "reasoning-end", id }
          ]
        default:
          return [part]
      }
    })
  )
