/**
 * Shows each request as a span, by the OpenTelemetry semantic conventions for generative AI.
 *
 * A request is one span; what became of its attempts are events of that span: who was passed over and why, who failed, where the chain turned, who
 * answered. An answer at the first attempt has no events, its span says all.
 * With `attempts: "spans"` each call to a provider is a span of its own below it, retries and hedges included. Either way the span is the current
 * one while a provider is called, so the HTTP client of an adapter propagates it as `traceparent`, and the provider's own spans, where it has
 * any, join the trace.
 *
 * **Privacy**
 *
 * Prompts and answers are not recorded unless `content: "record"` says so. An error is shown by its kind and the sentence of that kind; the words of
 * the provider, which may quote the prompt, are not.
 *
 * The layer stands beside `LlmResilience.layer`. Spans go to the `Tracer` that is in force where a request is made; without one that exports,
 * leave this layer away.
 *
 * **Example** (The span of a request)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Tracer } from "effect"
 * import { LlmResilience, LlmResponse, Provider, Traces } from "@llm-resilience/core"
 *
 * const spans: Array<Tracer.Span> = []
 * const tracer = Tracer.make({
 *   span: (options) => {
 *     const span = new Tracer.NativeSpan(options)
 *     spans.push(span)
 *     return span
 *   }
 * })
 *
 * const model = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "acme",
 *   model: "acme-large",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * }))
 * const resilient = LlmResilience.layer({ steps: [{ provider: model }] })
 *
 * await LlmResilience.generate({ prompt: "Hi" }).pipe(
 *   Effect.provide(Traces.layer().pipe(Layer.provideMerge(resilient))),
 *   Effect.withTracer(tracer),
 *   Effect.runPromise
 * )
 *
 * spans.map((span) => span.name) // => ["chat acme-large"]
 * spans[0]?.attributes.get("gen_ai.provider.name") // => "acme"
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import type { Asked } from "./Instrument.ts"
import * as Calls from "./internal/calls.ts"
import * as Content from "./internal/spanContent.ts"
import { stackless } from "./internal/stackless.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import { LlmResilience } from "./LlmResilience.ts"
import * as LlmResponse from "./LlmResponse.ts"
import * as Policy from "./Policy.ts"
import type { Failure, Provider } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * Options of the layer.
 *
 * **Details**
 *
 * - `attempts`: whether attempts are events of the span of their request, or calls are spans of their own below it. `events` by default.
 * - `content`: whether prompts and answers are recorded. `omit` by default. Files are never, nor what is longer than 64 Ki characters.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly attempts?: "events" | "spans" | undefined
  readonly content?: "omit" | "record" | undefined
}

/**
 * Layer that shows each request of {@link LlmResilience} as a span.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<never, never, LlmResilience> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const service = yield* LlmResilience
      const clock = yield* Clock.Clock
      const content = options?.content ?? "omit"
      const underWay = new Map<number, UnderWay>()
      const note = noting(underWay, clock)
      yield* service.listen(note, noted)
      if (options?.attempts === "spans") {
        const root: Shape = { name: "llm_resilience.request", kind: "internal", attributes: {} }
        return yield* service.instrument({
          request: (self) => spanned(self, root, { clock, content: "omit", underWay }),
          call: (self) => spanned(self, chat(self.id, self.model), { clock, content })
        })
      }
      // What the application asks for is the first step's model, whoever answers.
      const [first] = yield* service.status
      yield* service.instrument({
        request: (self) =>
          spanned(self, chat(first?.provider ?? self.id, first?.model ?? self.model), { clock, content, underWay })
      })
    })
  )

interface UnderWay {
  readonly span: Tracer.Span
  /** Whether an event was shown. Of an attempt that simply succeeds the span itself says everything. */
  troubled: boolean
}

interface Shape {
  readonly name: string
  readonly kind: Tracer.SpanKind
  readonly attributes: { readonly [name: string]: string }
}

const chat = (provider: string, model: string): Shape => ({
  name: `chat ${model}`,
  kind: "client",
  attributes: {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": provider,
    "gen_ai.request.model": model
  }
})

const spanned = (
  self: Asked,
  { attributes, kind, name }: Shape,
  {
    clock,
    content,
    underWay
  }: {
    readonly clock: Clock.Clock
    readonly content: "omit" | "record"
    readonly underWay?: Map<number, UnderWay> | undefined
  }
): Pick<Provider, "generate" | "stream"> => {
  const begin = Effect.makeSpan(name, { kind, attributes })

  const started = (span: Tracer.Span, request: LlmRequest, streamed: boolean): void => {
    underWay?.set(request.id, { span, troubled: false })
    if (streamed && kind === "client") span.attribute("gen_ai.request.stream", true)
    span.attribute("llm_resilience.request.id", request.id)
    if (kind === "client") asked(span, request)
    if (content === "record") recordText(span, "gen_ai.input.messages", Content.input(request.prompt))
  }

  const ended = (span: Tracer.Span, request: LlmRequest, exit: Exit.Exit<unknown, Failure>, seen: Calls.Seen): void => {
    underWay?.delete(request.id)
    answered(span, seen)
    // Below a request that is not a call itself, the calls say what the model did: it would be counted twice.
    if (kind === "client") modelled(span, self, seen)
    const outcome = Policy.outcomeOf(self.id, exit, 0)
    if (outcome._tag === "Failed") span.attribute("error.type", kindOf(outcome.error))
    span.end(
      clock.currentTimeNanosUnsafe(),
      outcome._tag === "Succeeded"
        ? Exit.void
        : outcome._tag === "Failed"
          ? Exit.fail(plain(outcome.error))
          : Exit.interrupt()
    )
  }

  return {
    generate: (request) =>
      Effect.withFiber((fiber) => {
        const outside = fiber.context
        let span: Tracer.Span | undefined
        // It begins inside of what sees the end, so that nobody leaves between the two.
        const whole = Effect.flatMap(begin, (made) => {
          span = made
          started(made, request, false)
          // What `Effect.provideService` would do, but its way back is in the pass that sees the end anyway.
          fiber.setContext(Context.add(outside, Tracer.ParentSpan, made))
          return self.generate(request)
        })
        return Effect.onExitPrimitive(whole, (exit) => {
          fiber.setContext(outside)
          if (span === undefined) return undefined
          const answer = Exit.isSuccess(exit) ? exit.value : undefined
          if (answer !== undefined && content === "record") {
            recordText(span, "gen_ai.output.messages", Content.output(answer.content))
          }
          ended(span, request, exit, answer === undefined ? {} : Calls.seenOf(answer))
          return undefined
        })
      }),
    stream: (request) =>
      Stream.unwrap(
        Effect.map(begin, (span) => {
          const parts: Array<LlmResponse.LlmStreamPart> = []
          const stream = Stream.provideService(self.stream(request), Tracer.ParentSpan, span)
          return Calls.watched(
            content === "record" ? Stream.tap(stream, (part) => Effect.sync(() => void parts.push(part))) : stream,
            () => {
              started(span, request, true)
              return {}
            },
            (seen, exit) => {
              if (content === "record") {
                recordText(span, "gen_ai.output.messages", Content.output(LlmResponse.collect(parts)))
              }
              ended(span, request, exit, seen)
            }
          )
        })
      )
  }
}

const recordText = (span: Tracer.Span, name: string, text: string | undefined): void => {
  if (text !== undefined) span.attribute(name, text)
}

const asked = (span: Tracer.Span, { responseFormat, settings }: LlmRequest): void => {
  if (responseFormat.type === "json") span.attribute("gen_ai.output.type", "json")
  if (settings.maxOutputTokens !== undefined) span.attribute("gen_ai.request.max_tokens", settings.maxOutputTokens)
  if (settings.temperature !== undefined) span.attribute("gen_ai.request.temperature", settings.temperature)
  if (settings.topP !== undefined) span.attribute("gen_ai.request.top_p", settings.topP)
  if (settings.stop !== undefined) span.attribute("gen_ai.request.stop_sequences", settings.stop)
  if (settings.seed !== undefined) span.attribute("gen_ai.request.seed", settings.seed)
}

const answered = (span: Tracer.Span, { served }: Calls.Seen): void => {
  if (served === undefined) return
  if (served.from === "cache") span.attribute("llm_resilience.served.from", "cache")
  if (served.attempts.length > 0) span.attribute("llm_resilience.attempts.before", served.attempts.length)
  if (served.degraded !== undefined) span.attribute("llm_resilience.degraded", served.degraded)
  if (served.notice !== undefined) span.attribute("llm_resilience.notice", served.notice._tag)
}

const modelled = (
  span: Tracer.Span,
  self: Asked,
  { finish, firstContentAfter, metadata, served }: Calls.Seen
): void => {
  if (served !== undefined) span.attribute("gen_ai.provider.name", served.provider)
  if (finish !== undefined) {
    span.attribute("gen_ai.response.model", metadata?.modelId ?? served?.model ?? self.model)
    span.attribute("gen_ai.response.finish_reasons", [finish.reason])
  }
  if (metadata?.id !== undefined) span.attribute("gen_ai.response.id", metadata.id)
  if (firstContentAfter !== undefined) {
    span.attribute("gen_ai.response.time_to_first_chunk", firstContentAfter / 1000)
  }
  // Nobody pays for an answer from the cache a second time.
  if (finish === undefined || served?.from === "cache") return
  const { inputTokens, outputTokens } = finish.usage
  if (inputTokens.total !== undefined) span.attribute("gen_ai.usage.input_tokens", inputTokens.total)
  if (outputTokens.total !== undefined) span.attribute("gen_ai.usage.output_tokens", outputTokens.total)
  if (inputTokens.cacheRead !== undefined) {
    span.attribute("gen_ai.usage.cache_read.input_tokens", inputTokens.cacheRead)
  }
  if (outputTokens.reasoning !== undefined) {
    span.attribute("gen_ai.usage.reasoning.output_tokens", outputTokens.reasoning)
  }
}

const kindOf = (error: Failure): string => (error._tag === "LlmUnavailable" ? error._tag : ProviderError.kind(error))

// Exporters write out all that an error carries: what a provider said, and the cause of a defect with its stack.
const plain = (error: Failure): Error =>
  stackless(() => Object.assign(new Error(error.message), { name: kindOf(error) }))

// Which events of a request are shown in its span. The others are in its attributes, or in the span of the call.
const shown: { readonly [T in ResilienceEvent.ResilienceEvent["_tag"]]: string | undefined } = {
  RequestStarted: undefined,
  RequestAnswered: undefined,
  RequestFailed: undefined,
  RequestAbandoned: undefined,
  AttemptStarted: undefined,
  AttemptSucceeded: "llm_resilience.attempt.succeeded",
  AttemptFailed: "llm_resilience.attempt.failed",
  AttemptSuperseded: "llm_resilience.attempt.superseded",
  StepSkipped: "llm_resilience.step.skipped",
  FellBack: "llm_resilience.fallback",
  Called: undefined,
  Retried: "llm_resilience.retry",
  Throttled: "llm_resilience.throttled",
  Shed: "llm_resilience.shed",
  LimitStoreFailed: undefined,
  Hedged: "llm_resilience.hedge",
  BudgetExhausted: undefined,
  ChaosInjected: "llm_resilience.chaos",
  Committed: "llm_resilience.committed",
  Recovered: "llm_resilience.recovered",
  RecoveryFailed: "llm_resilience.recovery.failed",
  CacheHit: "llm_resilience.cache.hit",
  CacheMissed: "llm_resilience.cache.missed",
  CacheStored: undefined,
  CacheRejected: undefined,
  CacheFailed: "llm_resilience.cache.failed",
  SimilarRefused: "llm_resilience.cache.similar_refused",
  EmbedderFailed: "llm_resilience.cache.embedder_failed",
  CacheShadowed: undefined,
  Deferred: "llm_resilience.deferred",
  DeferralRefused: "llm_resilience.deferral.refused",
  DeferredEnded: undefined,
  DeferredStoreFailed: undefined,
  NoticeGiven: undefined,
  DefectCaught: undefined,
  CircuitChanged: undefined,
  CooledDown: undefined,
  Isolated: undefined,
  HealthChanged: undefined,
  HealthChecked: undefined
}

// The keys of a record are its tags; the compiler knows them as strings.
const noted = (Object.keys(shown) as Array<keyof typeof shown>).filter((tag) => shown[tag] !== undefined)

const noting =
  (underWay: ReadonlyMap<number, UnderWay>, clock: Clock.Clock) =>
  (event: ResilienceEvent.ResilienceEvent): void => {
    const name = shown[event._tag]
    if (name === undefined || !("request" in event)) return
    const found = underWay.get(event.request)
    if (found === undefined || !found.span.sampled || (event._tag === "AttemptSucceeded" && !found.troubled)) return
    found.troubled = true
    found.span.event(name, clock.currentTimeNanosUnsafe(), ResilienceEvent.facts(event))
  }
