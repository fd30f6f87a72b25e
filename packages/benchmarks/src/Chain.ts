/**
 * Whole answers: the full chain on a good day, with a listener, past an open circuit, and when nobody can answer.
 */
import * as CircuitBreaker from "@llm-resilience/core/CircuitBreaker"
import * as DecisionLog from "@llm-resilience/core/DecisionLog"
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as Metrics from "@llm-resilience/core/Metrics"
import * as Traces from "@llm-resilience/core/Traces"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as StockBreaker from "effect/persistence/CircuitBreaker"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { Figure } from "./Measure.ts"
import { broken, healthy, request, requestWithDeadline } from "./Upstreams.ts"

export const figures = Effect.gen(function* () {
  const provider = healthy("primary")
  const bare = () => provider.generate(request)

  const chain = yield* LlmResilience.make({ steps: [{ provider }, { provider: healthy("backup") }] })
  const happy = () => chain.generate(requestWithDeadline)

  const all = yield* LlmResilience.make({
    health: {},
    fallback: { hedge: {}, routing: { strategy: "least-latency" } },
    policy: LlmResilience.standard({
      bulkhead: { permits: 1000 },
      rateLimit: { requestsPerMinute: 1e9, tokensPerMinute: 1e12 },
      adaptiveConcurrency: {}
    }),
    steps: [
      { provider, priority: 0 },
      { provider: healthy("equal"), priority: 0 },
      { provider: healthy("backup"), priority: 1 }
    ]
  })
  const everything = () => all.generate(requestWithDeadline)

  const breaker = yield* StockBreaker.make({
    tripPolicy: StockBreaker.consecutive(5),
    openDuration: "60 seconds"
  }).pipe(Effect.provide(StockBreaker.layerStoreMemory()))
  const schedule = Schedule.exponential("500 millis")
  const stock = () =>
    provider
      .generate(request)
      .pipe(Effect.timeout("30 seconds"), Effect.retry({ schedule, times: 2 }), breaker.execute({ key: "primary" }))

  const observed = yield* LlmResilience.make({ steps: [{ provider }, { provider: healthy("backup") }] })
  yield* Effect.forkScoped(Stream.runDrain(observed.events), { startImmediately: true })
  const listened = () => observed.generate(requestWithDeadline)

  const monitored = yield* LlmResilience.make({ steps: [{ provider }, { provider: healthy("backup") }] })
  yield* Layer.build(
    Layer.mergeAll(Metrics.layer(), Traces.layer(), DecisionLog.layer()).pipe(
      Layer.provide(Layer.succeed(LlmResilience.LlmResilience, monitored))
    )
  )
  const telemetry = () => monitored.generate(requestWithDeadline)

  // One failure opens the circuit, and it stays open for as long as the benchmark runs.
  const policy = LlmResilience.standard({
    retry: "off",
    circuitBreaker: { trip: CircuitBreaker.consecutive(1), openFor: "1 hour" }
  })
  const direct = yield* LlmResilience.make({ policy, steps: [{ provider: healthy("second") }] })
  const past = yield* LlmResilience.make({
    policy,
    steps: [{ provider: broken("first") }, { provider: healthy("second") }]
  })
  yield* Effect.exit(past.generate(request))

  const dead = yield* LlmResilience.make({
    policy,
    steps: [{ provider: broken("first") }, { provider: broken("second") }]
  })
  const rejected = () => Effect.flip(dead.generate(requestWithDeadline))
  yield* Effect.exit(rejected())

  return [
    { name: "bare.cpu", about: "a provider that answers through a resolved promise", of: bare },
    { name: "happy.cpu", about: "the full chain, minus bare", goal: 15, of: happy, minus: bare },
    {
      name: "everything.cpu",
      about: "with every policy on: limits, hedging, routing, health, minus bare",
      goal: 15,
      of: everything,
      minus: bare
    },
    { name: "stock.cpu", about: "effect's own breaker, retry and timeout, minus bare", of: stock, minus: bare },
    { name: "events.cpu", about: "what one listener adds to happy", of: listened, minus: happy },
    {
      name: "telemetry.cpu",
      about: "what metrics, spans and the decision log add to happy",
      goal: 5,
      of: telemetry,
      minus: happy
    },
    {
      name: "skip.cpu",
      about: "what a first step with an open circuit adds",
      goal: 1,
      of: () => past.generate(requestWithDeadline),
      minus: () => direct.generate(requestWithDeadline)
    },
    { name: "reject.cpu", about: "failing fast when both circuits are open", of: rejected },
    {
      name: "retained.bytes",
      about: "heap that stays behind for each answer of the full chain",
      goal: 0,
      retainedBy: happy,
      calls: 20_000
    }
  ] satisfies ReadonlyArray<Figure>
})
