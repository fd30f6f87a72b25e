/**
 * The whole composition as one service and one layer: provide it once, and LLM calls survive the failure of any provider.
 *
 * **Example** (The program that everybody writes first)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const primary = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "primary",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "primary", reason: "Authentication", description: "401" }))
 * }))
 * const backup = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "backup",
 *   model: "small",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * }))
 * const resilient = LlmResilience.layer({ steps: [{ provider: primary }, { provider: backup }] })
 *
 * const program = Effect.gen(function*() {
 *   const response = yield* LlmResilience.generate({ prompt: "Say hello" })
 *   return `${response.text} (from ${response.served.provider})`
 * })
 *
 * await Effect.runPromise(Effect.provide(program, resilient)) // => "Hello! (from backup)"
 * ```
 *
 * @since 0.1.0
 */
import type * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Model from "effect/ai/Model"
import type * as Response from "effect/ai/Response"
import * as Arr from "effect/Array"
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as AdaptiveConcurrency from "./AdaptiveConcurrency.ts"
import * as Budget from "./Budget.ts"
import * as Bulkhead from "./Bulkhead.ts"
import * as Cooldown from "./Cooldown.ts"
import * as Decision from "./Decision.ts"
import * as Degradation from "./Degradation.ts"
import * as Fallback from "./Fallback.ts"
import * as HealthChecker from "./HealthChecker.ts"
import * as Hedge from "./Hedge.ts"
import * as Instrument from "./Instrument.ts"
import * as Errors from "./internal/aiError.ts"
import * as Calls from "./internal/calls.ts"
import { configured, joined, providerOf } from "./internal/configured.ts"
import * as LanguageModelOut from "./internal/languageModelOut.ts"
import { bounded, numbered, published } from "./internal/requests.ts"
import * as LlmRequest from "./LlmRequest.ts"
import type * as LlmResponse from "./LlmResponse.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Notice from "./Notice.ts"
import * as OutputGuard from "./OutputGuard.ts"
import * as Policy from "./Policy.ts"
import * as Provider from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as RateLimit from "./RateLimit.ts"
import * as ResilienceConfig from "./ResilienceConfig.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"
import * as Retry from "./Retry.ts"
import * as Throttle from "./Throttle.ts"
import * as Timeouts from "./Timeouts.ts"
import * as Vitals from "./Vitals.ts"

/**
 * The resilient language model of an application.
 *
 * **Details**
 *
 * - `generate` and `stream` fail with {@link LlmUnavailable} when nobody could answer, and with the provider's own error when it
 *   would be the same everywhere (an invalid request) or comes after the first content of a stream.
 * - `generateOrNotice` never fails: every end is a value, with a word for the user.
 * - `status` is one snapshot of all steps, `events` what happens from the moment of subscription on. `listen` calls a function with each event
 *   in the moment it happens, `instrument` puts something around requests and calls; both until the scope closes.
 * - `health` says how every step is doing, as a value and as a stream of changes.
 * - `circuits` are the breakers by the id of their step, for an operator who wants to isolate or reset one.
 * - `provider` is the whole composition as a provider, to be wrapped or joined further.
 *
 * @category models
 * @since 0.1.0
 */
export interface LlmResilience {
  readonly generate: (request: LlmRequest.LlmRequest) => Effect.Effect<LlmResponse.LlmResponse, Provider.Failure>
  readonly stream: (request: LlmRequest.LlmRequest) => Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure>
  readonly generateOrNotice: (request: LlmRequest.LlmRequest) => Effect.Effect<Reply>
  readonly status: Effect.Effect<ReadonlyArray<Provider.Status>>
  readonly events: Stream.Stream<ResilienceEvent.ResilienceEvent>
  readonly health: Omit<HealthChecker.HealthChecker, "watch">
  readonly listen: ResilienceEvent.Hub["listen"]
  readonly instrument: Instrument.Instruments["add"]
  readonly circuits: ReadonlyMap<string, CircuitBreaker.CircuitBreaker>
  readonly provider: Provider.Provider
}

/**
 * Service tag of {@link LlmResilience}.
 *
 * @category services
 * @since 0.1.0
 */
export const LlmResilience: Context.Service<LlmResilience, LlmResilience> = Context.Service(
  "@llm-resilience/core/LlmResilience"
)

/**
 * Asks for a whole answer.
 *
 * @category accessors
 * @since 0.1.0
 */
export const generate = (
  input: LlmRequest.Input
): Effect.Effect<LlmResponse.LlmResponse, Provider.Failure, LlmResilience> =>
  LlmResilience.use((service) => service.generate(LlmRequest.make(input)))

/**
 * How a request ended, for applications that want no error channel.
 *
 * **Details**
 *
 * - `Answer`: the answer; `notice` is what the user should know about it, if anything.
 * - `Queued`: the answer comes later and is fetched with the `ticket`.
 * - `Unavailable`: nobody could answer now. `suggestion` is advice for the user, `retryAfter` the soonest time to ask again, if known.
 * - `Rejected`: this request gets no answer, now or later, because of what it is.
 *
 * Whatever is not an answer carries the `error`, for the log.
 *
 * @category models
 * @since 0.1.0
 */
export type Reply =
  | {
      readonly _tag: "Answer"
      readonly response: LlmResponse.LlmResponse
      readonly notice: Notice.Notice | undefined
    }
  | {
      readonly _tag: "Queued"
      readonly ticket: string
      readonly notice: Extract<Notice.Notice, { readonly _tag: "Queued" }>
      readonly error: LlmUnavailable.LlmUnavailable
    }
  | {
      readonly _tag: "Unavailable"
      readonly notice: Notice.Notice
      readonly retryAfter: Duration.Duration | undefined
      readonly suggestion: string
      readonly error: Provider.Failure
    }
  | { readonly _tag: "Rejected"; readonly notice: Notice.Notice; readonly error: ProviderError.ProviderError }

/**
 * Asks for a whole answer and returns a value in every case.
 *
 * **Example** (No error channel)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmResilience, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const down = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "down",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "down", reason: "Authentication", description: "401" }))
 * }))
 *
 * const program = Effect.map(LlmResilience.generateOrNotice({ prompt: "Hi" }), (reply) =>
 *   reply._tag === "Answer" ? reply.response.text : reply.notice.message
 * )
 *
 * await Effect.runPromise(Effect.provide(program, LlmResilience.layer({ steps: [{ provider: down }] })))
 * // => "The service is temporarily unavailable. Please try again later."
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const generateOrNotice = (input: LlmRequest.Input): Effect.Effect<Reply, never, LlmResilience> =>
  Effect.flatMap(LlmResilience, (service) => service.generateOrNotice(LlmRequest.make(input)))

/**
 * Asks for a streamed answer.
 *
 * **Details**
 *
 * The first part is `served` (by whom, with which notice), the last is `finish`.
 *
 * @category accessors
 * @since 0.1.0
 */
export const stream = (
  input: LlmRequest.Input
): Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure, LlmResilience> =>
  Stream.unwrap(Effect.map(LlmResilience, (service) => service.stream(LlmRequest.make(input))))

/**
 * Returns how every step is doing.
 *
 * @category accessors
 * @since 0.1.0
 */
export const status: Effect.Effect<ReadonlyArray<Provider.Status>, never, LlmResilience> = Effect.flatMap(
  LlmResilience,
  (service) => service.status
)

/**
 * What happens from the moment of subscription on.
 *
 * @category accessors
 * @since 0.1.0
 */
export const events: Stream.Stream<ResilienceEvent.ResilienceEvent, never, LlmResilience> = Stream.unwrap(
  Effect.map(LlmResilience, (service) => service.events)
)

/**
 * One step of the chain: the layer of its provider, its priority, and the policy around it.
 *
 * **Details**
 *
 * Steps are asked by rising `priority`; steps without one keep their place in the list (the first has priority 0, the next 1, …). Steps of equal
 * priority share the load by their `weight`, 1 by default; see `Routing`. `health` is how the step is checked, where it differs from the others.
 * `policy` is {@link standard} unless given. `degraded` marks a step whose model is smaller or whose answers are shorter than usual: its
 * answers say so.
 *
 * @category models
 * @since 0.1.0
 */
export interface Step<out E = never, out R = never> {
  readonly provider: Layer.Layer<Provider.Provider, E, R>
  readonly priority?: number | undefined
  readonly weight?: number | undefined
  readonly policy?: Policy.Policy<R> | undefined
  readonly health?: HealthChecker.CheckOptions | undefined
  readonly degraded?: "smaller" | "shorter" | undefined
}

/**
 * Options that every chain has.
 *
 * **Details**
 *
 * - `policy`: what is put around each step that brings none, {@link standard} by default.
 * - `around`: what is put around the whole chain: a cache, a queue, a policy of your own. Nothing by default.
 * - `deadline`: for requests that bring none; no deadline by default.
 * - `attempts`: the most calls to providers that one request may cause, retries, hedges and recoveries included, 12 by default.
 * - `health`: how steps are checked while nobody calls them; see `HealthChecker`. Without it nothing is sent that no user asked for, and the
 *   health of a step is what its calls and its circuit show.
 * - `fallback`: routing, hedging and more; see `Fallback.Options`.
 * - `hub`: where events go, one of its own with 1024 unread events for each listener by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<out R = never> {
  readonly policy?: Policy.Policy<R> | undefined
  readonly around?: Policy.Policy<R> | undefined
  readonly deadline?: Duration.Input | undefined
  readonly attempts?: number | undefined
  readonly health?: HealthChecker.Options | undefined
  readonly fallback?: Fallback.Options | undefined
  readonly hub?: ResilienceEvent.Hub | undefined
}

/**
 * The policy around one provider that is right for most: retries, cooling down, throttling, the limits that it reports, a circuit breaker, a budget for retries and hedges,
 * measuring, timeouts, and a guard that looks at what the model said, in this order from outside to inside.
 *
 * **Details**
 *
 * Each part takes its own options, or `"off"`. Three are off unless they get options, because nobody can guess them or because they cost money:
 * `hedge` (the same provider asked twice) and `bulkhead` go around all others, `adaptiveConcurrency` goes around the breaker. `rateLimit` only
 * learns from what the provider reports, unless it gets limits of your own.
 *
 * @category policies
 * @since 0.1.0
 */
export const standard = <R = never>(options?: StandardOptions<R>): Policy.Policy<NoInfer<R>> =>
  Policy.all([
    options?.hedge === undefined || options.hedge === "off" ? Policy.none : Hedge.policy(options.hedge),
    options?.bulkhead === undefined || options.bulkhead === "off" ? Policy.none : Bulkhead.policy(options.bulkhead),
    options?.retry === "off" ? Policy.none : Retry.policy(options?.retry),
    options?.cooldown === "off" ? Policy.none : Cooldown.policy(options?.cooldown),
    options?.throttle === "off" ? Policy.none : Throttle.policy(options?.throttle),
    options?.rateLimit === "off" ? Policy.none : RateLimit.policy(options?.rateLimit),
    options?.adaptiveConcurrency === undefined || options.adaptiveConcurrency === "off"
      ? Policy.none
      : AdaptiveConcurrency.policy(options.adaptiveConcurrency),
    options?.circuitBreaker === "off"
      ? Policy.none
      : CircuitBreaker.policy({ slowStart: "20 seconds", ...options?.circuitBreaker }),
    options?.budget === "off" ? Policy.none : Budget.policy(options?.budget),
    options?.vitals === "off" ? Policy.none : Vitals.policy(options?.vitals),
    options?.timeouts === "off" ? Policy.none : Timeouts.policy(options?.timeouts),
    options?.outputGuard === "off" ? Policy.none : OutputGuard.policy<R>(options?.outputGuard)
  ])

/**
 * Options of {@link standard}. `R` is what a judge of the output needs.
 *
 * @category models
 * @since 0.1.0
 */
export interface StandardOptions<R = never> {
  readonly bulkhead?: Bulkhead.Options | "off" | undefined
  readonly hedge?: Hedge.Options | "off" | undefined
  readonly retry?: Retry.Options | "off" | undefined
  readonly cooldown?: Cooldown.Options | "off" | undefined
  readonly throttle?: Throttle.Options | "off" | undefined
  readonly rateLimit?: RateLimit.Options | "off" | undefined
  readonly adaptiveConcurrency?: AdaptiveConcurrency.Options | "off" | undefined
  readonly circuitBreaker?: CircuitBreaker.Options | "off" | undefined
  readonly budget?: Budget.Options | "off" | undefined
  readonly vitals?: Vitals.Options | "off" | undefined
  readonly timeouts?: Timeouts.Options | "off" | undefined
  readonly outputGuard?: OutputGuard.Options<R> | "off" | undefined
}

/**
 * Creates the service from providers that are there already.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <R = never>(
  options: Options<R> & {
    readonly steps: Arr.NonEmptyReadonlyArray<{
      readonly provider: Provider.Provider
      readonly priority?: number | undefined
      readonly weight?: number | undefined
      readonly policy?: Policy.Policy<R> | undefined
      readonly health?: HealthChecker.CheckOptions | undefined
      readonly degraded?: "smaller" | "shorter" | undefined
    }>
  }
): Effect.Effect<LlmResilience, never, Scope.Scope | R> =>
  Effect.gen(function* () {
    const deadline = options.deadline === undefined ? undefined : Duration.fromInputUnsafe(options.deadline)
    if (deadline !== undefined && !Duration.isPositive(deadline)) {
      throw new RangeError(`LlmResilience.make: deadline must be longer than zero, got ${Duration.format(deadline)}`)
    }
    const hub = options.hub ?? (yield* ResilienceEvent.scopedHub())
    const instruments = Instrument.make()
    const standing: Policy.Policy<R> = options.policy ?? standard()
    const attempts = options.attempts ?? 12
    if (!Number.isInteger(attempts) || attempts < 1) {
      throw new RangeError(`LlmResilience.make: attempts must be an integer >= 1, got ${attempts}`)
    }
    const [chain, health] = yield* Effect.gen(function* () {
      const checker = yield* HealthChecker.make(options.health ?? { checks: "off" })
      const steps = yield* Effect.forEach(options.steps, (step, index) => {
        const called = instruments.at("call", Calls.observed(step.provider, hub))
        return (step.policy ?? standing)(called).pipe(
          Effect.flatMap((stack) => checker.watch(stack, { ...step.health, probe: called })),
          Effect.flatMap(step.degraded === undefined ? Policy.none : Degradation.policy(step.degraded)),
          Effect.map((provider) => ({ provider, weight: step.weight, priority: priorityOf(step.priority, index) }))
        )
      })
      const chain = yield* Fallback.make(steps, options.fallback).pipe(
        Effect.map((chain) => bounded(chain, attempts)),
        Effect.flatMap(options.around ?? Policy.none),
        Effect.flatMap(Timeouts.deadline)
      )
      return [chain, checker] as const
    }).pipe(Effect.provideService(ResilienceEvent.CurrentHub, hub))
    const provider = numbered(instruments.at("request", published(chain, hub)), deadline, attempts)
    const translate = yield* Notice.translator
    const table = yield* Decision.CurrentTable
    return {
      generate: provider.generate,
      stream: provider.stream,
      generateOrNotice: (request) =>
        Effect.match(provider.generate(request), {
          onFailure: (error) => replyTo(error, table, translate),
          onSuccess: (response): Reply => ({ _tag: "Answer", response, notice: response.served.notice })
        }),
      status: provider.status,
      events: hub.stream,
      health,
      listen: hub.listen,
      instrument: instruments.add,
      circuits: provider.circuits,
      provider
    }
  })

const replyTo = (error: Provider.Failure, table: Decision.Table, translate: (facts: Notice.Facts) => string): Reply => {
  if (error._tag === "LlmUnavailable") {
    const { notice, retryAfter, suggestion } = error
    return notice._tag === "Queued"
      ? { _tag: "Queued", ticket: notice.ticket, notice, error }
      : { _tag: "Unavailable", notice, retryAfter, suggestion, error }
  }
  // An error that another provider might not have made says nothing against the request.
  if (Decision.of(table, error).fallOver !== "no") {
    const { notice, retryAfter, suggestion } = LlmUnavailable.make([], {
      retryAfter: ProviderError.retryAfter(error),
      translate
    })
    return { _tag: "Unavailable", notice, retryAfter, suggestion, error }
  }
  const facts = { _tag: "Rejected" as const, reason: ProviderError.kind(error) }
  return { _tag: "Rejected", notice: { ...facts, message: translate(facts) }, error }
}

const priorityOf = (priority: number | undefined, index: number): number => {
  if (priority === undefined) return index
  if (Number.isInteger(priority) && priority >= 0) return priority
  throw new RangeError(`LlmResilience.make: steps[${index}].priority must be an integer >= 0, got ${priority}`)
}

/**
 * Layer that provides {@link LlmResilience} over the layers of its providers.
 *
 * **Details**
 *
 * The layer needs what the providers' layers and the policies need and fails as they fail. Whatever they hold lives as long as the layer.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <const Steps extends Arr.NonEmptyReadonlyArray<Step<unknown, unknown>>, R = never>(
  options: Options<R> & { readonly steps: Steps & NothingElse<Steps> }
): Layer.Layer<LlmResilience, ErrorOf<Steps[number]>, ServicesOf<Steps[number]> | Exclude<R, Scope.Scope>> =>
  Layer.effect(
    LlmResilience,
    Effect.gen(function* () {
      const hub = options.hub ?? (yield* ResilienceEvent.scopedHub())
      // The steps are built with the hub in place, so that a chain within a step publishes to it as well.
      const given: Steps = options.steps
      const steps = yield* Effect.forEach(given, (step) =>
        Effect.map(Layer.build(step.provider), (context) => ({
          ...step,
          provider: Context.get(context, Provider.Provider)
        }))
      ).pipe(Effect.provideService(ResilienceEvent.CurrentHub, hub))
      return yield* make<unknown>({ ...options, hub, steps })
    })
    // The steps are a tuple of unlike layers; their errors and needs are gathered in the type of `layer`.
  ) as Layer.Layer<LlmResilience, ErrorOf<Steps[number]>, ServicesOf<Steps[number]> | Exclude<R, Scope.Scope>>

// What is inferred is not checked for names that mean nothing.
type NothingElse<Steps> = {
  readonly [I in keyof Steps]: { readonly [K in Exclude<keyof Steps[I], keyof Step>]: never }
}
type ErrorOf<S> = S extends Step<infer E, unknown> ? E : never
type ServicesOf<S> = S extends Step<unknown, infer R> ? R : never

/**
 * What a call through {@link languageModel} asks for beyond the options of `effect/ai`.
 *
 * @category models
 * @since 0.1.0
 */
export type RequestOptions = Omit<LlmRequest.Input, "prompt" | "tools" | "toolChoice" | "responseFormat">

/**
 * The options of the calls through {@link languageModel}: the deadline of each, for whom it is, whether it may wait and be cached, how to
 * generate. None by default; set them around a call with `Effect.provideService` or `Stream.provideService`.
 *
 * **Gotchas**
 *
 * The deadline is that of one call to the model. A `Chat` or a loop over tools makes several.
 *
 * @category references
 * @since 0.1.0
 */
export const CurrentRequest = Context.Reference<RequestOptions>("@llm-resilience/core/LlmResilience/CurrentRequest", {
  defaultValue: () => ({})
})

/**
 * Layer that provides {@link LlmResilience} as the `LanguageModel` of `effect/ai`.
 *
 * **When to use**
 *
 * Use when a program speaks `effect/ai` (`LanguageModel.generateText`, `streamText`, `generateObject`, `Chat`, toolkits): it becomes
 * resilient when this layer takes the place of its model's.
 *
 * **Details**
 *
 * - Options that `effect/ai` does not have come through {@link CurrentRequest}.
 * - {@link servedOf} reads from an answer who gave it. `Model.ProviderName` and `Model.ModelName` are services, chosen before anybody was
 *   asked: they name all steps, joined by ` | `. The span of a call and the `response-metadata` part name who answered.
 * - Failures are `AiError`s whose reason tells the truth about all steps; {@link causeOf} gives the failure itself.
 * - Tools are run by `effect/ai`, once for each call of the model's answer, however many providers were asked for it.
 *
 * **Example** (Swapping one layer)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const primary = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "primary",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "primary", reason: "Authentication", description: "401" }))
 * }))
 * const backup = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "backup",
 *   model: "small",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * }))
 *
 * const program = Effect.gen(function*() {
 *   const response = yield* LanguageModel.generateText({ prompt: "Say hello" })
 *   return `${response.text} (from ${LlmResilience.servedOf(response)?.provider})`
 * })
 *
 * const model = LlmResilience.languageModel.pipe(
 *   Layer.provide(LlmResilience.layer({ steps: [{ provider: primary }, { provider: backup }] }))
 * )
 *
 * await Effect.runPromise(Effect.provide(program, model)) // => "Hello! (from backup)"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const languageModel: Layer.Layer<
  LanguageModel.LanguageModel | Model.ProviderName | Model.ModelName,
  never,
  LlmResilience
> = Layer.fresh(
  // Layers are shared by identity: without `fresh` a second chain, built together with this one, would get the model of the first.
  Layer.effectContext(
    Effect.gen(function* () {
      const service = yield* LlmResilience
      const model = yield* LanguageModelOut.make(service, Effect.service(CurrentRequest))
      const steps = yield* service.status
      return Context.make(LanguageModel.LanguageModel, model).pipe(
        Context.add(Model.ProviderName, steps.map((step) => step.provider).join(" | ")),
        Context.add(Model.ModelName, steps.map((step) => step.model).join(" | "))
      )
    })
  )
)

/**
 * Reads from an answer of {@link languageModel} how it was served: by whom, after which attempts, with which notice for the user.
 *
 * **Details**
 *
 * Takes a response (of `generateText`, `generateObject` or `Chat`) or parts. The record is plain JSON under the key `llm-resilience` in the
 * metadata of the `finish` part. In a stream the `response-metadata` part before the content has it as well, so that a notice can
 * be shown first; when another provider takes over in the middle, another such part follows. The last record counts.
 *
 * @category accessors
 * @since 0.1.0
 */
export const servedOf = (
  answer:
    | { readonly content: Iterable<Pick<Response.AnyPart, "type" | "metadata">> }
    | Iterable<Pick<Response.AnyPart, "type" | "metadata">>
): LlmResponse.Served | undefined => LanguageModelOut.servedOf(answer)

/**
 * Returns what an `AiError` of {@link languageModel} stands for: an `LlmUnavailable` with the whole story, or the error of the provider.
 *
 * **Details**
 *
 * It is the `cause` of the error's reason. Other errors have none, nor has one that was sent elsewhere as data; what is left of it then
 * is under the key `llm-resilience` in the metadata of the reason.
 *
 * **Example** (Telling the user when to come back)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { LlmResilience, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const down = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "down",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "down", reason: "Authentication", description: "401" }))
 * }))
 * const model = LlmResilience.languageModel.pipe(
 *   Layer.provide(LlmResilience.layer({ steps: [{ provider: down }] }))
 * )
 *
 * const answer = LanguageModel.generateText({ prompt: "Hi" }).pipe(
 *   Effect.map((response) => response.text),
 *   Effect.catch((error) => {
 *     const cause = LlmResilience.causeOf(error)
 *     return Effect.succeed(cause?._tag === "LlmUnavailable" ? cause.notice.message : error.message)
 *   })
 * )
 *
 * await Effect.runPromise(Effect.provide(answer, model))
 * // => "The service is temporarily unavailable. Please try again later."
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const causeOf: (error: AiError.AiError) => Provider.Failure | undefined = Errors.causeOf

/**
 * Makes the provider of a step that is written in a configuration. Adapters bring one for each name.
 *
 * @category models
 * @since 0.1.0
 */
export type Factory<R = never> = (
  step: ResilienceConfig.Step & { readonly id: string }
) => Effect.Effect<Provider.Provider, Config.ConfigError, R>

/**
 * Layer that provides {@link LlmResilience} from a configuration: the text of a YAML or JSON file, or the decoded value.
 *
 * **Details**
 *
 * `providers` says how to make the provider of each name that a step may use; `@llm-resilience/providers` exports a registry. Keys come
 * through `Config`. What a file cannot say stands beside it: `standard` (the parts of {@link standard} to replace, such as the output guard),
 * `around`, `fallback` and `hub` as in {@link layer}. Everything wrong with the configuration is reported at once in a `ConfigInvalid`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = <const Providers extends { readonly [name: string]: Factory<unknown> }, R = never>(options: {
  readonly config: string | ResilienceConfig.ResilienceConfig
  readonly providers: Providers
  readonly standard?: StandardOptions<R> | undefined
  readonly around?: Policy.Policy<R> | undefined
  readonly fallback?: Fallback.Options | undefined
  readonly hub?: ResilienceEvent.Hub | undefined
}): ConfiguredLayer<Providers, R> =>
  Layer.effect(
    LlmResilience,
    Effect.gen(function* () {
      const config = yield* ResilienceConfig.from(options.config)
      const ids = ResilienceConfig.stepIds(config)
      const hub = options.hub ?? (yield* ResilienceEvent.scopedHub())
      // As in `layer`: what a factory puts around its provider publishes to the hub of the chain.
      const built = yield* Effect.forEach(config.fallbackChain, (step, index) =>
        Effect.result(providerOf(options.providers, { ...step, id: ids[index] ?? step.provider }, index))
      ).pipe(Effect.provideService(ResilienceEvent.CurrentHub, hub))
      const issues = built.flatMap((result) => (result._tag === "Failure" ? [result.failure] : []))
      if (issues.length > 0) return yield* new ResilienceConfig.ConfigInvalid({ issues })
      const steps = Arr.map(config.fallbackChain, (step, index) => {
        const result = built[index]
        if (result?._tag !== "Success") throw new Error("unreachable: failures were reported above")
        return {
          provider: result.success,
          priority: step.priority,
          weight: step.weight,
          health: { checks: step.healthCheck },
          policy: standard(joined(configured(config, step), options.standard)),
          degraded: step.degraded
        }
      })
      const { attempts, deadline, health, hedge, routing } = config
      const fallback = {
        ...(hedge === undefined ? {} : { hedge }),
        ...(routing === undefined ? {} : { routing }),
        ...options.fallback
      }
      return yield* make<R>({ steps, deadline, attempts, health, around: options.around, fallback, hub })
    })
    // What the factories need is gathered in the type of the function.
  ) as ConfiguredLayer<Providers, R>

type ConfiguredLayer<Providers extends { readonly [name: string]: Factory<unknown> }, R> = Layer.Layer<
  LlmResilience,
  ResilienceConfig.ConfigInvalid,
  Exclude<Effect.Services<ReturnType<Providers[keyof Providers]>> | R, Scope.Scope>
>
