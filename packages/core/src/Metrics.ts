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
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Schedule from "effect/Schedule"
import { DeferredQueue } from "./DeferredQueue.ts"
import * as Counting from "./internal/counting.ts"
import * as Meters from "./internal/meters.ts"
import { millisOf } from "./internal/monotonic.ts"
import { LlmResilience } from "./LlmResilience.ts"
import type { Status } from "./Provider.ts"

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
  budgetLeft: define(
    "gauge",
    "llm_resilience.budget.left",
    "{call}",
    ["provider"],
    "Retries and hedges that the budget would still allow"
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
  inFlight: define(
    "gauge",
    "llm_resilience.load.in_flight",
    "{call}",
    ["provider"],
    "Calls under way, where they are limited"
  ),
  waiting: define("gauge", "llm_resilience.load.waiting", "{call}", ["provider"], "Calls that wait for a permit"),
  limit: define(
    "gauge",
    "llm_resilience.load.limit",
    "{call}",
    ["provider"],
    "How many calls may be under way at a time"
  ),
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
  similarRefused: define(
    "histogram",
    "llm_resilience.cache.refused",
    "1",
    ["reason"],
    "How close the nearest question was when all that were near enough were refused",
    similarities
  ),
  shadowed: define(
    "histogram",
    "llm_resilience.cache.shadowed",
    "1",
    ["match", "verdict"],
    "How close questions were whose cached answers were compared with new ones",
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
 * layer, counters stay. The budget and the load of a step are shown where it has a `Budget`, a `Bulkhead` or an `AdaptiveConcurrency`.
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
      const record = yield* recorders(maxSeries)
      const counting = Counting.make(record)
      const statuses = yield* service.status
      const look = yield* looking(service.status, statuses)
      for (const status of statuses) {
        const { budget, load, provider } = status
        counting.begin(status)
        yield* Meters.shown(definitions.rest, [provider], () => restOf(look(provider)))
        if (budget !== undefined) {
          yield* Meters.shown(definitions.budgetLeft, [provider], () => look(provider)?.budget ?? 0)
        }
        if (load === undefined) continue
        for (const part of ["inFlight", "waiting", "limit"] as const) {
          yield* Meters.shown(definitions[part], [provider], () => look(provider)?.load?.[part] ?? 0)
        }
      }
      yield* Meters.shown(definitions.active, [], counting.underWay)
      yield* service.listen(counting.count)
    })
  )
}

const restOf = (step: Status | undefined): number => {
  const reason = step?.unavailable
  if (reason?._tag !== "CoolingDown" && reason?._tag !== "Isolated") return 0
  const seconds = reason.retryAfter === undefined ? Infinity : millisOf(reason.retryAfter) / 1000
  // Whom an operator isolated, the state of the circuit shows: nobody knows for how long.
  return seconds < Infinity ? seconds : 0
}

// What no event tells is looked up by whoever reads the metrics. A look that has to wait, for a shared store, is there for the next reader.
const looking = (
  status: Effect.Effect<ReadonlyArray<Status>>,
  first: ReadonlyArray<Status>
): Effect.Effect<(provider: string) => Status | undefined> =>
  Effect.contextWith((context: Context.Context<never>) => {
    const fork = Effect.runForkWith(context)
    let latest = first
    let busy = false
    return Effect.succeed((provider) => {
      if (!busy) {
        busy = true
        fork(status).addObserver((exit) => {
          busy = false
          if (Exit.isSuccess(exit)) latest = exit.value
        })
      }
      return latest.find((one) => one.provider === provider)
    })
  })

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
    ) as unknown as Counting.Recorders
  })
