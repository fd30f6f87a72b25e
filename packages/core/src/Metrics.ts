/**
 * Counts what happens, as `effect/Metric`s: calls, attempts, fallbacks, latency, circuits, tokens and cost.
 *
 * The layer stands beside `LlmResilience.layer` and costs nothing where it is absent. It updates metrics in the moment something happens, so
 * no queue can lose an event. Names and units are those of the OpenTelemetry semantic conventions for generative AI where they have them, and
 * begin with `llm_resilience.` else; {@link definitions} is the whole list. Exporters are the application's choice: `@llm-resilience/opentelemetry`
 * has layers for Prometheus, OTLP and an OpenTelemetry SDK.
 *
 * Several chains in one application that have steps of the same name share their counters, and the last of them its gauges. To tell them apart,
 * provide `Metric.CurrentMetricAttributes` to each layer, with a label such as `{ chain: "chat" }`.
 *
 * Every label takes values from a small set. Should one not (an id that somebody makes up for each request), a family stops at `maxSeries`
 * series and counts the rest under the label value `other`.
 *
 * **Example** (Counting a fallback)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Metric } from "effect"
 * import { LlmResilience, LlmResponse, Metrics, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const down = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "down",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "down", reason: "Authentication", description: "401" }))
 * }))
 * const up = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "up",
 *   model: "small",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * }))
 * const resilient = LlmResilience.layer({ steps: [{ provider: down }, { provider: up }] })
 *
 * const program = Effect.gen(function*() {
 *   yield* LlmResilience.generate({ prompt: "Hi" })
 *   const all = yield* Metric.snapshot
 *   const fallback = all.find((metric) => metric.id === "llm_resilience.fallbacks")
 *   return [fallback?.attributes?.["from"], fallback?.attributes?.["to"], fallback?.attributes?.["reason"]]
 * }).pipe(
 *   Effect.provide(Metrics.layer().pipe(Layer.provideMerge(resilient))),
 *   Effect.provideService(Metric.MetricRegistry, new Map())
 * )
 *
 * await Effect.runPromise(program) // => ["down", "up", "Authentication"]
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Schedule from "effect/Schedule"
import * as Attempt from "./Attempt.ts"
import { DeferredQueue } from "./DeferredQueue.ts"
import * as Meters from "./internal/meters.ts"
import { millisOf, monotonic } from "./internal/monotonic.ts"
import { LlmResilience } from "./LlmResilience.ts"
import type { Served } from "./LlmResponse.ts"
import * as ProviderError from "./ProviderError.ts"
import type { Of, ResilienceEvent } from "./ResilienceEvent.ts"

const define = <const Labels extends ReadonlyArray<string>>(
  type: Meters.Definition["type"],
  name: string,
  unit: string,
  labels: Labels,
  description: string,
  boundaries?: ReadonlyArray<number>
): Definition<Labels> => ({ type, name, unit, labels, description, boundaries })

/**
 * One family of metrics: its name, unit and labels.
 *
 * @category models
 * @since 0.1.0
 */
export type Definition<Labels extends ReadonlyArray<string> = ReadonlyArray<string>> = Meters.Definition<Labels>

// The bounds that the conventions ask for.
const seconds = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
const tokens = Array.from({ length: 14 }, (_, power) => 4 ** power)
const overheads = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 1e-1]
const ages = [1, 10, 60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400]
const similarities = [0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 1]

const call = ["gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model"] as const

/**
 * All metrics.
 *
 * **Details**
 *
 * `reason` is the kind of an error or of a skip, see `Attempt.kind`. `fallback` is `true` for an answer before which a step failed or was
 * skipped. `source` is `provider`, `cache` for an answer that was served because nobody could give a new one, or not in time, and `fresh cache`
 * for one that was young enough to need no new one.
 *
 * @category constants
 * @since 0.1.0
 */
export const definitions = {
  callDuration: define(
    "histogram",
    "gen_ai.client.operation.duration",
    "s",
    [...call, "error.type"],
    "How long single calls to providers took",
    seconds
  ),
  firstChunk: define(
    "histogram",
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    call,
    "How long streams took to their first content",
    seconds
  ),
  tokens: define(
    "histogram",
    "gen_ai.client.token.usage",
    "{token}",
    [...call, "gen_ai.token.type"],
    "Tokens of single calls to providers",
    tokens
  ),
  cost: define(
    "counter",
    "llm_resilience.cost_usd",
    "{USD}",
    ["provider", "model"],
    "What calls to providers with a price cost"
  ),
  active: define("gauge", "llm_resilience.requests.active", "{request}", [], "Requests under way"),
  duration: define(
    "histogram",
    "llm_resilience.request.duration",
    "s",
    ["method", "outcome"],
    "How long requests took, everything included",
    seconds
  ),
  firstContent: define(
    "histogram",
    "llm_resilience.request.time_to_first_content",
    "s",
    ["provider"],
    "How long callers waited for the first content of a stream",
    seconds
  ),
  overhead: define(
    "histogram",
    "llm_resilience.request.overhead",
    "s",
    ["method"],
    "What this library added to every 16th request: its duration without calls and waits",
    overheads
  ),
  answers: define(
    "counter",
    "llm_resilience.answers",
    "{answer}",
    ["provider", "source", "fallback"],
    "Answers, by who gave them"
  ),
  degraded: define(
    "counter",
    "llm_resilience.answers.degraded",
    "{answer}",
    ["provider", "degraded"],
    "Lesser answers"
  ),
  notices: define("counter", "llm_resilience.notices", "{notice}", ["notice"], "What users were told"),
  attempts: define(
    "counter",
    "llm_resilience.attempts",
    "{attempt}",
    ["provider", "outcome", "reason"],
    "Steps that were asked"
  ),
  skips: define("counter", "llm_resilience.skips", "{skip}", ["provider", "reason"], "Steps that were passed over"),
  fallbacks: define(
    "counter",
    "llm_resilience.fallbacks",
    "{fallback}",
    ["from", "to", "reason"],
    "Turns from one step to another"
  ),
  retries: define("counter", "llm_resilience.retries", "{retry}", ["provider", "reason"], "Calls that were made again"),
  hedges: define("counter", "llm_resilience.hedges", "{hedge}", ["provider", "to"], "Calls beside slow ones"),
  budgets: define(
    "counter",
    "llm_resilience.budget.exhausted",
    "{refusal}",
    ["provider", "extra"],
    "Retries and hedges that the budget did not allow"
  ),
  recoveries: define(
    "counter",
    "llm_resilience.recoveries",
    "{recovery}",
    ["from", "to", "outcome"],
    "Streams that broke in the middle"
  ),
  throttled: define(
    "histogram",
    "llm_resilience.throttle.wait",
    "s",
    ["provider", "limit"],
    "Waits for limits of our own; 0 for a call that was held back and not sent",
    seconds
  ),
  limitFailures: define(
    "counter",
    "llm_resilience.throttle.store_failures",
    "{failure}",
    ["provider", "operation"],
    "Failures of the store of rate limits"
  ),
  shed: define("counter", "llm_resilience.shed", "{request}", ["provider", "priority"], "Requests that gave way"),
  circuit: define(
    "gauge",
    "llm_resilience.circuit.state",
    "1",
    ["provider", "state"],
    "1 for the state in which the circuit is, 0 for the others"
  ),
  transitions: define(
    "counter",
    "llm_resilience.circuit.transitions",
    "{transition}",
    ["provider", "from", "to"],
    "Changes of circuits"
  ),
  health: define(
    "gauge",
    "llm_resilience.health.state",
    "1",
    ["provider", "state"],
    "1 for the health that the provider has, 0 for what it had"
  ),
  checks: define(
    "histogram",
    "llm_resilience.health.check",
    "s",
    ["provider", "verdict"],
    "How long health checks took",
    seconds
  ),
  rest: define("gauge", "llm_resilience.rest", "s", ["provider"], "How long a provider will still be left alone"),
  cooldowns: define("counter", "llm_resilience.cooldowns", "{rest}", ["provider"], "Rests that providers asked for"),
  isolations: define(
    "counter",
    "llm_resilience.isolations",
    "{isolation}",
    ["provider", "reason"],
    "Providers left alone until a person acts"
  ),
  lookups: define(
    "counter",
    "llm_resilience.cache.lookups",
    "{lookup}",
    ["result", "match"],
    "Questions to the emergency cache"
  ),
  cacheAge: define(
    "histogram",
    "llm_resilience.cache.age",
    "s",
    ["match"],
    "Age of cached answers that were served",
    ages
  ),
  similarity: define(
    "histogram",
    "llm_resilience.cache.similarity",
    "1",
    ["match"],
    "How close the questions of cached answers were",
    similarities
  ),
  writes: define(
    "counter",
    "llm_resilience.cache.writes",
    "{write}",
    ["result", "reason"],
    "Answers for the emergency cache"
  ),
  cacheFailures: define(
    "counter",
    "llm_resilience.cache.failures",
    "{failure}",
    ["operation"],
    "Failures of the cache"
  ),
  deferred: define(
    "counter",
    "llm_resilience.deferred",
    "{request}",
    ["event"],
    "Requests in the deferred queue, by what became of them"
  ),
  refused: define(
    "counter",
    "llm_resilience.deferred.refused",
    "{request}",
    ["reason"],
    "Requests that the queue did not take"
  ),
  storeFailures: define(
    "counter",
    "llm_resilience.deferred.store_failures",
    "{failure}",
    ["operation"],
    "Failures of the queue's store"
  ),
  queue: define("gauge", "llm_resilience.deferred.depth", "{request}", ["state"], "Requests in the deferred queue"),
  chaos: define("counter", "llm_resilience.chaos", "{fault}", ["provider", "fault"], "Faults made on purpose"),
  defects: define("counter", "llm_resilience.defects", "{defect}", ["provider"], "Code around providers that died")
}

/**
 * Options of the layer.
 *
 * **Details**
 *
 * `maxSeries` is the most series of one family, 500 by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly maxSeries?: number | undefined
}

/**
 * Layer that counts what happens in {@link LlmResilience}.
 *
 * **Details**
 *
 * The counters of every step are there from the beginning, with zero: what has never happened can be asked for too. Gauges disappear with the
 * layer, counters stay.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<never, never, LlmResilience> => {
  const maxSeries = options?.maxSeries ?? 500
  if (!Number.isInteger(maxSeries) || maxSeries < 1) {
    throw new RangeError(`Metrics.layer: maxSeries must be an integer >= 1, got ${maxSeries}`)
  }
  return Layer.effectDiscard(
    Effect.gen(function* () {
      const service = yield* LlmResilience
      const clock = yield* Clock.Clock
      const record = yield* recorders(maxSeries)
      const rests = new Map<string, number>()
      const underWay = { requests: 0 }
      const count = counting(record, rests, underWay, clock)
      for (const { circuit, health, provider } of yield* service.status) {
        startAtZero(record, provider)
        yield* Meters.shown(definitions.rest, [provider], () =>
          Math.max(0, ((rests.get(provider) ?? 0) - monotonic(clock)) / 1000)
        )
        if (circuit !== undefined) showState(record.circuit, circuitStates, provider, circuit._tag)
        if (health !== undefined) showState(record.health, healthStates, provider, health.state)
      }
      yield* Meters.shown(definitions.active, [], () => underWay.requests)
      yield* service.listen(count)
    })
  )
}

/**
 * Layer that shows how many requests wait in the deferred queue and how many are worked on, asking it every `every` (15 s).
 *
 * @category layers
 * @since 0.1.0
 */
export const layerDeferred = (options?: {
  readonly every?: Duration.Input | undefined
}): Layer.Layer<never, never, DeferredQueue> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const queue = yield* DeferredQueue
      const record = yield* recorders(2)
      yield* queue.size.pipe(
        Effect.map(({ queued, running }) => {
          record.queue(queued, "queued")
          record.queue(running, "running")
        }),
        // A store that is down is told of by the queue.
        Effect.ignore,
        Effect.repeat(Schedule.spaced(options?.every ?? "15 seconds")),
        Effect.forkScoped
      )
    })
  )

type Recorders = {
  readonly [K in keyof typeof definitions]: Meters.Record<(typeof definitions)[K]["labels"]>
}

const recorders = (maxSeries: number) =>
  Effect.gen(function* () {
    const context = yield* Effect.context<never>()
    const gauges: Array<Metric.Metric<number, unknown>> = []
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const gauge of gauges) Metric.removeUnsafe(gauge, context)
      })
    )
    const onSeries = (series: Metric.Metric<number, unknown>) => {
      if (series.type === "Gauge") gauges.push(series)
    }
    // Key by key the recorder has the labels of its definition; the compiler sees only the union.
    return Object.fromEntries(
      Object.entries(definitions).map(([key, definition]) => [
        key,
        Meters.recorder<ReadonlyArray<string>>(definition, { context, maxSeries, onSeries })
      ])
    ) as unknown as Recorders
  })

const isolating = ["Authentication", "PermissionDenied", "QuotaExhausted", "ModelNotFound"] as const

const startAtZero = (record: Recorders, provider: string): void => {
  record.attempts(0, provider, "succeeded", "")
  record.answers(0, provider, "provider", "false")
  record.answers(0, provider, "provider", "true")
  record.answers(0, provider, "cache", "false")
  record.cooldowns(0, provider)
  for (const reason of isolating) record.isolations(0, provider, reason)
}

const healthStates = ["healthy", "degraded", "unhealthy"] as const
const circuitStates = ["Closed", "Open", "HalfOpen", "Isolated"] as const

const showState = (
  record: Meters.Record<readonly ["provider", "state"]>,
  states: Iterable<string>,
  provider: string,
  now: string
): void => {
  for (const state of states) record(state === now ? 1 : 0, provider, state)
}

// The overhead is a distribution, for which a part of the requests is enough: to follow every one would be a good part of it.
const followed = (request: number): boolean => request % 16 === 1

// Requests end exactly once. Should the ends of many be missed, this is the most that is remembered.
const maxFollowed = 10_000

const sourceOf = ({ from, notice }: Served): string =>
  from === "cache" && notice?._tag === "Cached" && notice.because === "fresh" ? "fresh cache" : from

const counting = (
  record: Recorders,
  rests: Map<string, number>,
  underWay: { requests: number },
  clock: Clock.Clock
): ((event: ResilienceEvent) => void) => {
  const millis = millisOf

  // Milliseconds of a request that were not ours.
  const away = new Map<number, number>()

  const ended = (event: Of<"RequestAnswered" | "RequestFailed" | "RequestAbandoned">, outcome: string): void => {
    const { duration, method, request } = event
    const took = millis(duration)
    // One that began before the layer did was never counted.
    underWay.requests = Math.max(0, underWay.requests - 1)
    record.duration(took / 1000, method, outcome)
    if (!followed(request)) return
    const waited = away.get(request)
    away.delete(request)
    // Calls that overlap, of a hedge, are longer together than the request.
    if (waited !== undefined && outcome === "answered") record.overhead(Math.max(0, took - waited) / 1000, method)
  }

  const awayFrom = (request: number, duration: Duration.Duration): void => {
    if (!followed(request)) return
    const waited = away.get(request)
    if (waited !== undefined) away.set(request, waited + millis(duration))
  }

  const rested = (provider: string, duration: Duration.Duration | undefined): void => {
    if (duration !== undefined) rests.set(provider, monotonic(clock) + millis(duration))
  }

  // An event without a place here does not compile.
  const counters: { readonly [T in ResilienceEvent["_tag"]]: (event: Of<T>) => void } = {
    RequestStarted: ({ request }) => {
      underWay.requests++
      if (followed(request) && away.size < maxFollowed) away.set(request, 0)
    },
    RequestAnswered: (event) => {
      const { served } = event
      ended(event, "answered")
      const fallback = served.from === "provider" && served.attempts.length > 0 ? "true" : "false"
      record.answers(1, served.provider, sourceOf(served), fallback)
      if (served.degraded !== undefined) record.degraded(1, served.provider, served.degraded)
    },
    RequestFailed: (event) => {
      const { error } = event
      ended(
        event,
        error._tag !== "LlmUnavailable" ? "failed" : error.notice._tag === "Queued" ? "queued" : "unavailable"
      )
    },
    RequestAbandoned: (event) => ended(event, "abandoned"),
    AttemptStarted: () => {},
    AttemptSucceeded: ({ provider }) => record.attempts(1, provider, "succeeded", ""),
    AttemptSuperseded: ({ provider }) => record.attempts(1, provider, "superseded", ""),
    AttemptFailed: ({ attempt, provider }) => record.attempts(1, provider, "failed", Attempt.kind(attempt)),
    StepSkipped: ({ provider, reason }) => record.skips(1, provider, reason._tag),
    FellBack: ({ because, from, to }) => record.fallbacks(1, from, to, Attempt.kind(because)),
    Called: (event) => {
      const { costUsd, duration, error, firstContentAfter, model, outcome, provider, request, responseModel, usage } =
        event
      const answering = responseModel ?? model
      awayFrom(request, duration)
      const failed = error === undefined ? (outcome === "abandoned" ? "abandoned" : "") : ProviderError.kind(error)
      record.callDuration(millis(duration) / 1000, "chat", provider, model, answering, failed)
      if (firstContentAfter !== undefined) {
        record.firstChunk(millis(firstContentAfter) / 1000, "chat", provider, model, answering)
      }
      const input = usage?.inputTokens.total
      const output = usage?.outputTokens.total
      if (input !== undefined) record.tokens(input, "chat", provider, model, answering, "input")
      if (output !== undefined) record.tokens(output, "chat", provider, model, answering, "output")
      if (costUsd !== undefined) record.cost(costUsd, provider, model)
    },
    Retried: ({ delay, error, provider, request }) => {
      awayFrom(request, delay)
      record.retries(1, provider, ProviderError.kind(error))
    },
    Throttled: ({ limit, provider, request, wait }) => {
      if (wait !== undefined) awayFrom(request, wait)
      record.throttled(wait === undefined ? 0 : millis(wait) / 1000, provider, limit)
    },
    LimitStoreFailed: ({ operation, provider }) => record.limitFailures(1, provider, operation),
    Shed: ({ priority, provider }) => record.shed(1, provider, priority),
    Hedged: ({ provider, to }) => record.hedges(1, provider, to),
    BudgetExhausted: ({ extra, provider }) => record.budgets(1, provider, extra),
    ChaosInjected: ({ fault, provider }) => record.chaos(1, provider, fault),
    Committed: ({ after, provider }) => record.firstContent(millis(after) / 1000, provider),
    Recovered: ({ by, from, to }) => record.recoveries(1, from, to, by),
    RecoveryFailed: ({ from }) => record.recoveries(1, from, "", "failed"),
    CacheHit: ({ age, match, similarity, stale }) => {
      record.lookups(1, stale ? "stale" : "hit", match)
      record.cacheAge(millis(age) / 1000, match)
      record.similarity(similarity, match)
    },
    CacheMissed: ({ because }) => record.lookups(1, because, ""),
    CacheStored: () => record.writes(1, "stored", ""),
    CacheRejected: ({ because }) => record.writes(1, "rejected", because),
    CacheFailed: ({ operation }) => record.cacheFailures(1, operation),
    SimilarRefused: () => {},
    EmbedderFailed: () => record.cacheFailures(1, "embed"),
    CacheShadowed: () => {},
    Deferred: () => record.deferred(1, "Accepted"),
    DeferralRefused: ({ reason }) => record.refused(1, reason),
    DeferredEnded: ({ outcome }) => record.deferred(1, outcome),
    DeferredStoreFailed: ({ operation }) => record.storeFailures(1, operation),
    NoticeGiven: ({ notice }) => record.notices(1, notice._tag),
    DefectCaught: ({ provider }) => record.defects(1, provider),
    CircuitChanged: ({ from, provider, to }) => {
      record.transitions(1, provider, from, to)
      showState(record.circuit, circuitStates, provider, to)
      // Closing it by hand wakes a provider as well.
      if (to === "Closed") rests.delete(provider)
    },
    CooledDown: ({ duration, provider }) => {
      record.cooldowns(1, provider)
      rested(provider, duration)
    },
    Isolated: ({ because, duration, provider }) => {
      record.isolations(1, provider, because)
      rested(provider, duration)
    },
    HealthChanged: ({ provider, to }) => {
      showState(record.health, healthStates, provider, to)
    },
    HealthChecked: ({ duration, provider, verdict }) => record.checks(millis(duration) / 1000, provider, verdict)
  }
  // Each function takes the event of its own key, which the compiler cannot follow through a lookup.
  return (event) => (counters[event._tag] as (event: ResilienceEvent) => void)(event)
}
