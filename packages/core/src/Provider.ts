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
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Model from "effect/ai/Model"
import type * as Response from "effect/ai/Response"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { SkipReason } from "./Attempt.ts"
import type { Budget } from "./Budget.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import type * as HealthChecker from "./HealthChecker.ts"
import { asking } from "./internal/languageModelIn.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import type { LlmUnavailable } from "./LlmUnavailable.ts"
import * as ProviderError from "./ProviderError.ts"
import type { Vitals } from "./Vitals.ts"

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
 * `contextWindow` and `maxOutputTokens` are in tokens: a prompt that certainly exceeds the former skips the step, and an adapter asks for
 * no more than the latter. `streaming: false` says that the model only gives whole answers: asked for a stream, {@link make} asks for the
 * whole one and replays it. `prefill` says that the model goes on where an assistant message at the end of the prompt stops, which lets a
 * chain continue a stream that broke. `price` is what the tokens cost, for routing by cost and for {@link Cost}.
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
  readonly price?: Price | undefined
}

/**
 * What a model costs, in US dollars for a million tokens.
 *
 * **Details**
 *
 * `cachedInputPerMillion` is for input that the provider read from its prompt cache, `cacheWritePerMillion` for input that it wrote to it.
 * Without them such input costs as much as any other. Reasoning is output.
 *
 * @category models
 * @since 0.1.0
 */
export interface Price {
  readonly inputPerMillion: number
  readonly outputPerMillion: number
  readonly cachedInputPerMillion?: number | undefined
  readonly cacheWritePerMillion?: number | undefined
}

/**
 * How busy one provider is: calls under way, calls that wait for a permit, and how many may be under way at a time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Load {
  readonly inFlight: number
  readonly waiting: number
  readonly limit: number
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
  readonly health?: HealthChecker.Health | undefined
  /** Why the step would be skipped right now, if it would be. */
  readonly unavailable?: SkipReason | undefined
  /** What its bulkhead, or its adaptive limit, sees. */
  readonly load?: Load | undefined
  /** How many retries and hedges its budget would still allow. */
  readonly budget?: number | undefined
  /** What its rate limit knows to be left. */
  readonly limits?: LlmResponse.Limits | undefined
}

/**
 * One upstream model, or several that act as one.
 *
 * **Details**
 *
 * `id` names the step in errors, events and configuration and is unique within a chain. `availability` says why the provider would not take this
 * request at `now`, in monotonic milliseconds, or `undefined` when it would. It is asked several times a call, so it only looks at what is known
 * here and asks nobody. `generate` and `stream` need nothing from the context: what an adapter needs it takes when its layer is built.
 *
 * @category models
 * @since 0.1.0
 */
export interface Provider {
  readonly id: string
  readonly model: string
  readonly capabilities: Capabilities
  readonly availability: (request: LlmRequest, now: number) => SkipReason | undefined
  readonly generate: (request: LlmRequest) => Effect.Effect<LlmResponse.LlmResponse, Failure>
  readonly stream: (request: LlmRequest) => Stream.Stream<LlmResponse.LlmStreamPart, Failure>
  readonly status: Effect.Effect<ReadonlyArray<Status>>
  /** Whether `request.expiresAt` is kept without help. {@link Timeouts} makes it so; a chain adds it where it is missing. */
  readonly keepsDeadline: boolean
  /** What real calls show, where somebody measures them; see `Vitals`. */
  readonly vitals?: Vitals | undefined
  /** How it is doing at a monotonic millisecond, where somebody judges it; see `HealthChecker`. */
  readonly health?: ((now: number) => HealthChecker.State) | undefined
  /** What it may be asked beyond one call for each request, where somebody limits it; see `Budget`. */
  readonly budget?: Budget | undefined
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
 * Give `generate`, `stream`, or both. From `stream` alone, `generate` collects the stream; from `generate` alone, or for a model that
 * cannot stream, `stream` replays the whole answer as parts. `capabilities` default to unknown. Tokens of the usage that are NaN, negative or endless count as not told.
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
  const served = LlmResponse.servedBy(options)
  const respond = ({ content, limits }: Answer) => {
    const last = content.at(-1)
    const ended = last?.type === "finish" ? withLast(content, last, counted(last)) : [...content, unfinished]
    return LlmResponse.make({ content: ended, limits, served })
  }
  const { generate } = options
  const ends = {
    onFailure: (cause: Cause.Cause<Failure>) => Effect.failCause(withoutDefects(id, cause)),
    onSuccess: (answer: Answer) => Effect.succeed(respond(answer))
  }
  const replayed = generate !== undefined && options.capabilities?.streaming === false
  const stream = options.stream === undefined || replayed ? undefined : complete(id, options.stream)
  const whole = (request: LlmRequest): Effect.Effect<LlmResponse.LlmResponse, Failure> =>
    generate === undefined
      ? Effect.map(Stream.runCollect(stream === undefined ? Stream.empty : stream(request)), (parts) =>
          respond({ content: LlmResponse.collect(parts) })
        )
      : Effect.matchCauseEffect(
          Effect.suspend(() => generate(request)),
          ends
        )
  return {
    id,
    model,
    capabilities: options.capabilities ?? {},
    availability: () => undefined,
    generate: whole,
    stream: stream ?? ((request) => Stream.unwrap(Effect.map(whole(request), replay))),
    status: Effect.succeed([{ provider: id, model }]),
    keepsDeadline: false,
    circuits: new Map()
  }
}

const withLast = <A>(all: ReadonlyArray<A>, last: A, replaced: A): ReadonlyArray<A> =>
  replaced === last ? all : [...all.slice(0, -1), replaced]

// What is no number of tokens was not told: it would make NaN of every limit, price and metric that it is added to, for good.
const counted = (finish: Response.FinishPartEncoded): Response.FinishPartEncoded => {
  const { inputTokens, outputTokens } = finish.usage
  return countsOnly(inputTokens) && countsOnly(outputTokens)
    ? finish
    : { ...finish, usage: { inputTokens: onlyCounts(inputTokens), outputTokens: onlyCounts(outputTokens) } }
}

type Counts = Readonly<Record<string, number | undefined>>

const isCount = (tokens: number | undefined): boolean => tokens === undefined || (tokens >= 0 && tokens < Infinity)

const countsOnly = (counts: Counts): boolean => Object.values(counts).every(isCount)

const onlyCounts = (counts: Counts): Counts =>
  Object.fromEntries(Object.entries(counts).filter(([, tokens]) => isCount(tokens)))

const unfinished = { type: "finish", reason: "unknown", usage: LlmResponse.unknownUsage } as const

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
 * **Details**
 *
 * An adapter fails with a `ProviderError`. Only what asks a chain of its own passes an `LlmUnavailable` on.
 *
 * @category models
 * @since 0.1.0
 */
export type Generate = (request: LlmRequest) => Effect.Effect<Answer, Failure>

/**
 * Asks a model for a streamed answer; it fails as {@link Generate} does.
 *
 * @category models
 * @since 0.1.0
 */
export type Streaming = (request: LlmRequest) => Stream.Stream<LlmResponse.LlmStreamPart, Failure>

// Only causes that are not the caller's own interruption get here: recovery does not run for that one.
const withoutDefects = <E>(id: string, cause: Cause.Cause<E>): Cause.Cause<E | ProviderError.APIError> =>
  Cause.hasFails(cause) && !Cause.hasDies(cause) ? cause : Cause.fail(ProviderError.fromDefect(id, cause))

// A stream that stops without `finish` was cut, however politely the connection was closed; what comes after `finish` is noise.
type PartsPull = Pull.Pull<Arr.NonEmptyReadonlyArray<LlmResponse.LlmStreamPart>, Failure>

const complete =
  (id: string, stream: Streaming): Streaming =>
  (request) =>
    Stream.transformPull(
      Stream.suspend(() => stream(request)),
      (pull) =>
        Effect.sync(() => {
          let finished = false
          // One step for all three ways to end: it is paid for each chunk.
          const next: PartsPull = Pull.matchEffect(pull, {
            onSuccess: (parts) => {
              const end = parts.findIndex((part) => part.type === "finish")
              const last = parts[end]
              if (last?.type !== "finish") return Effect.succeed(parts)
              finished = true
              return Effect.succeed(Arr.append(parts.slice(0, end), counted(last)))
            },
            onFailure: (cause) => Effect.failCause(withoutDefects(id, cause)),
            onDone: () =>
              Effect.fail(
                new ProviderError.APIError({
                  provider: id,
                  reason: "StreamCut",
                  description: "The stream ended without a finish part"
                })
              )
          })
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

/**
 * Options of {@link fromLanguageModel}.
 *
 * **Details**
 *
 * - `id`, `model`: the names of the step. The layer of a `Model` brings both; `id` is then the name of its provider.
 * - `capabilities`: what the model can do; unknown by default.
 * - `settings`: the services to provide to one call, so that `request.settings` reach the model: packages of models read the settings of a
 *   call from a service of their own (`Config`), which this function fills in their words. By default they keep those of the layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface LanguageModelOptions {
  readonly id?: string | undefined
  readonly model?: string | undefined
  readonly capabilities?: Capabilities | undefined
  readonly settings?: ((request: LlmRequest) => Context.Context<never>) | undefined
}

/**
 * Makes a provider of any `effect/ai` model, so that it can be a step of a chain.
 *
 * **Details**
 *
 * Whole and streamed answers, tools, tool choice and JSON output are asked for in the words of `effect/ai`, and `AiError` becomes a
 * `ProviderError` exactly once. Tools are declared to the model and never run here: the application runs them, once, whoever asked for it.
 * A JSON answer is the decoded object written by its own schema, whatever shape the model was made to write. The model lives as long as
 * the scope.
 *
 * **Gotchas**
 *
 * `effect/ai` cannot stream JSON output: such a stream asks for the whole answer and replays it. Ids of earlier answers
 * (`ResponseIdTracker`) do not reach the model, because they may be those of another one.
 *
 * **Example** (A model of effect/ai as the backup)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Stream } from "effect"
 * import { LanguageModel, Model } from "effect/ai"
 * import { LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const anyModel = Model.make(
 *   "acme",
 *   "acme-large",
 *   Layer.effect(
 *     LanguageModel.LanguageModel,
 *     LanguageModel.make({
 *       generateText: () => Effect.succeed([{ type: "text", text: "Hello!" }]),
 *       streamText: () => Stream.empty
 *     })
 *   )
 * )
 * const down = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "down",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "down", reason: "Authentication", description: "401" }))
 * }))
 *
 * const resilient = LlmResilience.layer({
 *   steps: [{ provider: down }, { provider: Provider.layerLanguageModel(anyModel) }]
 * })
 *
 * const { served, text } = await Effect.runPromise(
 *   Effect.provide(LlmResilience.generate({ prompt: "Hi" }), resilient)
 * )
 *
 * text // => "Hello!"
 * served.provider // => "acme"
 * served.model // => "acme-large"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromLanguageModel: {
  <E, R>(
    layer: Layer.Layer<LanguageModel.LanguageModel | Model.ProviderName | Model.ModelName, E, R>,
    options?: LanguageModelOptions
  ): Effect.Effect<Provider, E, R | Scope.Scope>
  <E, R>(
    layer: Layer.Layer<LanguageModel.LanguageModel, E, R>,
    options: LanguageModelOptions & { readonly id: string; readonly model: string }
  ): Effect.Effect<Provider, E, R | Scope.Scope>
} = <E, R>(
  layer: Layer.Layer<LanguageModel.LanguageModel, E, R>,
  options?: LanguageModelOptions
): Effect.Effect<Provider, E, R | Scope.Scope> => fromLayer(layer, options)

const fromLayer = <E, R>(
  layer: Layer.Layer<LanguageModel.LanguageModel, E, R>,
  options: LanguageModelOptions | undefined
): Effect.Effect<Provider, E, R | Scope.Scope> =>
  Effect.map(Layer.build(layer), (context) => {
    // The overloads see to it that a name which is not given is in the context.
    const id = options?.id ?? Option.getOrElse(Context.getOption(context, Model.ProviderName), () => "")
    const model = options?.model ?? Option.getOrElse(Context.getOption(context, Model.ModelName), () => "")
    const asked = asking(Context.get(context, LanguageModel.LanguageModel), { id, settings: options?.settings })
    const served = LlmResponse.servedBy({ id, model })
    return make({
      id,
      model,
      capabilities: options?.capabilities,
      generate: asked.generate,
      stream: (request) =>
        request.responseFormat.type === "text"
          ? asked.stream(request)
          : Stream.unwrap(
              Effect.map(asked.generate(request), ({ content }) => replay(LlmResponse.make({ content, served })))
            )
    })
  })

/**
 * Layer that provides any `effect/ai` model as a {@link Provider}; see {@link fromLanguageModel}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLanguageModel: {
  <E, R>(
    layer: Layer.Layer<LanguageModel.LanguageModel | Model.ProviderName | Model.ModelName, E, R>,
    options?: LanguageModelOptions
  ): Layer.Layer<Provider, E, R>
  <E, R>(
    layer: Layer.Layer<LanguageModel.LanguageModel, E, R>,
    options: LanguageModelOptions & { readonly id: string; readonly model: string }
  ): Layer.Layer<Provider, E, R>
} = <E, R>(
  layer: Layer.Layer<LanguageModel.LanguageModel, E, R>,
  options?: LanguageModelOptions
): Layer.Layer<Provider, E, R> => Layer.effect(Provider, fromLayer(layer, options))
