import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  DeferredQueue,
  DeferredStore,
  LlmRequest,
  LlmResilience,
  Metrics,
  ResilienceEvent
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Fiber, Layer, Metric, Scope, Exit, Stream } from "effect"
import { TestClock } from "effect/testing"
import { everyEvent, secret } from "../support/everyEvent.ts"

const request = LlmRequest.make({ prompt: "Hi" })

/** Reads one series: its value, its count for a histogram, or `undefined`. */
const read = Effect.fnUntraced(function* (
  definition: Metrics.Definition,
  labels: { readonly [label: string]: string }
) {
  const series = (yield* Metric.snapshot).find(
    ({ attributes, id }) =>
      id === definition.name &&
      Object.entries(labels).every(([label, value]) => attributes?.[label] === value) &&
      Object.keys(attributes ?? {}).length === Object.keys(labels).length + 1
  )
  switch (series?.type) {
    case "Counter":
    case "Histogram":
      return Number(series.state.count)
    case "Gauge":
      return Number(series.state.value)
    default:
      return undefined
  }
})

const sumOf = Effect.fnUntraced(function* (definition: Metrics.Definition) {
  const series = (yield* Metric.snapshot).find(({ id }) => id === definition.name)
  return series?.type === "Histogram" ? series.state.sum : undefined
})

const { definitions } = Metrics

const counted = Effect.fnUntraced(function* (
  options: Parameters<typeof LlmResilience.make<never>>[0],
  metrics?: Metrics.Options
) {
  const resilience = yield* LlmResilience.make(options)
  yield* Layer.build(Metrics.layer(metrics).pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, resilience))))
  return resilience
})

const own = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => Effect.provideService(effect, Metric.MetricRegistry, new Map()))

const chat = (provider: string) => ({
  "gen_ai.operation.name": "chat",
  "gen_ai.provider.name": provider,
  "gen_ai.request.model": "scripted-1",
  "gen_ai.response.model": "scripted-1"
})

describe("Metrics", () => {
  it.effect("count a fallback: attempts, answers, the turn and its cause", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({ id: "a", script: [ScriptedProvider.fail("QuotaExhausted")] }),
        ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("Hello!")] })
      ])
      const resilience = yield* counted({ steps: [{ provider: a }, { provider: b }] })
      yield* resilience.generate(request)
      yield* resilience.generate(request)

      const of = (definition: Metrics.Definition, labels: { readonly [label: string]: string }) =>
        read(definition, labels)
      assert.strictEqual(
        yield* of(definitions.attempts, { provider: "a", outcome: "failed", reason: "QuotaExhausted" }),
        1
      )
      assert.strictEqual(yield* of(definitions.attempts, { provider: "b", outcome: "succeeded" }), 2)
      assert.strictEqual(yield* of(definitions.fallbacks, { from: "a", to: "b", reason: "QuotaExhausted" }), 1)
      assert.strictEqual(yield* of(definitions.fallbacks, { from: "a", to: "b", reason: "Isolated" }), 1)
      assert.strictEqual(yield* of(definitions.skips, { provider: "a", reason: "Isolated" }), 1)
      assert.strictEqual(yield* of(definitions.isolations, { provider: "a", reason: "QuotaExhausted" }), 1)
      assert.strictEqual(yield* of(definitions.answers, { provider: "b", source: "provider", fallback: "true" }), 2)
      assert.strictEqual(yield* of(definitions.notices, { notice: "BackupService" }), 2)
      assert.strictEqual(yield* of(definitions.duration, { method: "generate", outcome: "answered" }), 2)
      assert.strictEqual(yield* of(definitions.callDuration, { ...chat("a"), "error.type": "QuotaExhausted" }), 1)
      assert.strictEqual(yield* of(definitions.callDuration, chat("b")), 2)
    }).pipe(own)
  )

  it.effect("count tokens and cost of everything that will be paid for", () =>
    Effect.gen(function* () {
      const usage = { inputTokens: { total: 1000 }, outputTokens: { total: 200 } }
      const provider = yield* ScriptedProvider.make({
        id: "a",
        // The first answer is empty: the guard rejects it, but it is on the bill.
        script: [ScriptedProvider.answer("", { usage }), ScriptedProvider.answer("Hello!", { usage })]
      })
      const capabilities = { price: { inputPerMillion: 3, outputPerMillion: 15 } }
      const resilience = yield* counted({ steps: [{ provider: { ...provider, capabilities } }] })
      const fiber = yield* Effect.forkChild(resilience.generate(request))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)

      assert.strictEqual(yield* read(definitions.tokens, { ...chat("a"), "gen_ai.token.type": "input" }), 2)
      assert.strictEqual(yield* read(definitions.tokens, { ...chat("a"), "gen_ai.token.type": "output" }), 2)
      assert.closeTo((yield* read(definitions.cost, { provider: "a", model: "scripted-1" })) ?? 0, 0.012, 1e-9)
    }).pipe(own)
  )

  it.effect("tell how long callers wait, and how much of it is ours", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        id: "a",
        script: [
          ScriptedProvider.fail("RateLimited", { retryAfter: "2 seconds" }),
          ScriptedProvider.delay("3 seconds", ScriptedProvider.answer("Hello!")),
          ScriptedProvider.delay("1 second", ScriptedProvider.tokens("one two", { every: "2 seconds" }))
        ]
      })
      const resilience = yield* counted({ steps: [{ provider }] })
      const whole = yield* Effect.forkChild(resilience.generate(request))
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(whole)

      assert.strictEqual(yield* sumOf(definitions.duration), 5)
      assert.strictEqual(yield* sumOf(definitions.overhead), 0)

      const streamed = yield* Effect.forkChild(Stream.runDrain(resilience.stream(request)))
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(streamed)

      assert.strictEqual(yield* sumOf(definitions.firstContent), 1)
      assert.strictEqual(yield* sumOf(definitions.firstChunk), 1)
      assert.strictEqual(yield* read(definitions.duration, { method: "stream", outcome: "answered" }), 1)
    }).pipe(own)
  )

  it.effect("show circuits, rests and requests under way as they are now", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({
          id: "a",
          script: [ScriptedProvider.fail("RateLimited", { retryAfter: "30 seconds" }), ScriptedProvider.hang]
        }),
        ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("Hello!")] })
      ])
      const policy = LlmResilience.standard({ circuitBreaker: { trip: CircuitBreaker.consecutive(1) } })
      const resilience = yield* counted({ policy, steps: [{ provider: a }, { provider: b }] })
      assert.strictEqual(yield* read(definitions.circuit, { provider: "a", state: "Closed" }), 1)

      yield* resilience.generate(request)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* read(definitions.rest, { provider: "a" }), 20)

      yield* resilience.circuits.get("b")?.isolate("incident 42") ?? Effect.void
      assert.strictEqual(yield* read(definitions.circuit, { provider: "b", state: "Closed" }), 0)
      assert.strictEqual(yield* read(definitions.circuit, { provider: "b", state: "Isolated" }), 1)

      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* read(definitions.rest, { provider: "a" }), 0)
      const hanging = yield* Effect.forkChild(resilience.generate(request), { startImmediately: true })
      assert.strictEqual(yield* read(definitions.active, {}), 1)
      yield* Fiber.interrupt(hanging)
      assert.strictEqual(yield* read(definitions.active, {}), 0)
      assert.strictEqual(yield* read(definitions.duration, { method: "generate", outcome: "abandoned" }), 1)
    }).pipe(own)
  )

  it.effect("show no rest that an operator has ended", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({ id: "a", script: [ScriptedProvider.fail("QuotaExhausted")] }),
        ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("Hello!")] })
      ])
      const resilience = yield* counted({ steps: [{ provider: a }, { provider: b }] })
      yield* resilience.generate(request)
      assert.strictEqual(yield* read(definitions.rest, { provider: "a" }), 300)

      yield* resilience.circuits.get("a")?.reset ?? Effect.void
      assert.strictEqual(yield* read(definitions.rest, { provider: "a" }), 0)
    }).pipe(own)
  )

  it.effect("are there with zero from the beginning, so that what never happened can be asked for", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("Hello!")] })
      yield* counted({ steps: [{ provider: a }] })

      assert.strictEqual(yield* read(definitions.attempts, { provider: "a", outcome: "succeeded" }), 0)
      assert.strictEqual(yield* read(definitions.answers, { provider: "a", source: "provider", fallback: "true" }), 0)
      assert.strictEqual(yield* read(definitions.isolations, { provider: "a", reason: "QuotaExhausted" }), 0)
    }).pipe(own)
  )

  it.effect("stop at their most series and count the rest as other", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("Hello!")] })
      const hub = ResilienceEvent.makeHub()
      yield* counted({ hub, steps: [{ provider: a }] }, { maxSeries: 3 })
      for (let index = 0; index < 1000; index++) {
        hub.publish({ _tag: "FellBack", request: 1, from: `p${index}`, to: "x", because: skipped })
      }
      const series = (yield* Metric.snapshot).filter(({ id }) => id === definitions.fallbacks.name)

      assert.strictEqual(series.length, 4)
      assert.strictEqual(yield* read(definitions.fallbacks, { from: "other", to: "other", reason: "other" }), 997)
    }).pipe(own)
  )

  it.effect("show what is left of the budget for retries and hedges", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({
        id: "a",
        script: [ScriptedProvider.fail("Overloaded"), ScriptedProvider.answer("Hello!")]
      })
      const policy = LlmResilience.standard({ budget: { floor: 3, ratio: 0, halfLife: "10 minutes" } })
      const resilience = yield* counted({ policy, steps: [{ provider: a }] })
      assert.strictEqual(yield* read(definitions.budgetLeft, { provider: "a" }), 3)

      const retried = yield* Effect.forkChild(resilience.generate(request))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(retried)
      assert.strictEqual(yield* read(definitions.budgetLeft, { provider: "a" }), 2)

      yield* TestClock.adjust("10 hours")
      assert.strictEqual(yield* read(definitions.budgetLeft, { provider: "a" }), 3)
    }).pipe(own)
  )

  it.effect("show the load of a provider whose calls are limited, and of no other", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({ id: "a", script: [ScriptedProvider.hang] }),
        ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("Hello!")] })
      ])
      const policy = LlmResilience.standard({ bulkhead: { permits: 2, maxWait: "1 hour" } })
      const resilience = yield* counted({ steps: [{ provider: a, policy }, { provider: b }] })
      const load = (part: "inFlight" | "waiting" | "limit", provider: string) => read(definitions[part], { provider })
      assert.deepStrictEqual(yield* Effect.all([load("inFlight", "a"), load("waiting", "a")]), [0, 0])

      for (let call = 0; call < 3; call++) {
        yield* Effect.forkChild(resilience.generate(request), { startImmediately: true })
      }

      assert.deepStrictEqual(
        yield* Effect.all([load("inFlight", "a"), load("waiting", "a"), load("limit", "a"), load("limit", "b")]),
        [2, 1, 2, undefined]
      )
    }).pipe(own)
  )

  it.effect("show for a status that has to wait what the look before it found", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("Hello!")] })
      let inFlight = 0
      const status = Effect.sync(() => [
        { provider: "a", model: "m", load: { inFlight: inFlight++, waiting: 0, limit: 9 } }
      ])
      const resilience = yield* LlmResilience.make({ steps: [{ provider: a }] })
      const remote = { ...resilience, status: Effect.delay(status, "1 second") }
      const layer = Metrics.layer().pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, remote)))
      const building = yield* Effect.forkScoped(Layer.build(layer))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(building)
      const seen = read(definitions.inFlight, { provider: "a" })

      assert.deepStrictEqual(yield* Effect.all([seen, seen]), [0, 0])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Effect.all([seen, seen]), [1, 1])
    }).pipe(own)
  )

  it.effect("tell how similar answers that were refused are, and those that were compared", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("Hello!")] })
      const hub = ResilienceEvent.makeHub()
      yield* counted({ hub, steps: [{ provider: a }] })
      hub.publish(everyEvent.SimilarRefused)
      hub.publish(everyEvent.CacheShadowed)

      assert.strictEqual(yield* read(definitions.similarRefused, { reason: "Number" }), 1)
      assert.strictEqual(yield* sumOf(definitions.similarRefused), 0.95)
      assert.strictEqual(yield* read(definitions.shadowed, { match: "similar", verdict: "right" }), 1)
      assert.strictEqual(yield* sumOf(definitions.shadowed), 0.95)
    }).pipe(own)
  )

  it.effect("know every event, and show nothing that somebody wrote", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("Hello!")] })
      const hub = ResilienceEvent.makeHub()
      yield* counted({ hub, policy: LlmResilience.standard({ bulkhead: { permits: 1 } }), steps: [{ provider: a }] })
      for (const event of Object.values(everyEvent)) hub.publish(event)
      const all = yield* Metric.snapshot
      const used = new Set(all.map(({ id }) => id))

      assert.strictEqual(hub.dropped(), 0)
      assert.notInclude(JSON.stringify(all.map(({ attributes }) => attributes)), secret.slice(0, 9))
      // The depth of the queue has a layer of its own.
      assert.deepStrictEqual(
        Object.values(definitions).flatMap(({ name }) => (used.has(name) ? [] : [name])),
        [definitions.queue.name]
      )
    }).pipe(own)
  )

  it.effect("take their gauges with them when the layer ends, and leave the counters", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("Hello!")] })
      const scope = yield* Scope.make()
      const resilience = yield* Scope.provide(counted({ steps: [{ provider: a }] }), scope)
      yield* resilience.generate(request)
      yield* Scope.close(scope, Exit.void)
      const all = yield* Metric.snapshot

      assert.deepStrictEqual(
        all.filter(({ type }) => type === "Gauge").map(({ id }) => id),
        []
      )
      assert.strictEqual(yield* read(definitions.attempts, { provider: "a", outcome: "succeeded" }), 1)
    }).pipe(own)
  )

  it.effect("show how many requests wait in the deferred queue", () =>
    Effect.gen(function* () {
      const queue = yield* DeferredQueue.make()
      yield* Layer.build(
        Metrics.layerDeferred({ every: "10 seconds" }).pipe(
          Layer.provide(Layer.succeed(DeferredQueue.DeferredQueue, queue))
        )
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* read(definitions.queue, { state: "queued" }), 0)

      yield* queue.accept(LlmRequest.make({ prompt: "Hi", mayWait: true }))
      yield* TestClock.adjust("10 seconds")

      assert.strictEqual(yield* read(definitions.queue, { state: "queued" }), 1)
    }).pipe(own, Effect.provide(DeferredStore.layerMemory))
  )

  it("refuse a bound below one", () => {
    assert.throws(() => Metrics.layer({ maxSeries: 0 }), RangeError)
  })

  it("have names that a collector and Prometheus can use, each once", () => {
    const all: ReadonlyArray<Metrics.Definition> = Object.values(definitions)

    assert.strictEqual(new Set(all.map(({ name }) => name)).size, all.length)
    for (const { labels, name, unit } of all) {
      assert.match(name, /^(gen_ai|llm_resilience)(\.[a-z_]+)+$/)
      assert.match(unit, /^(s|1|\{[a-zA-Z]+\})$/)
      for (const label of labels) assert.match(label, /^[a-z_]+(\.[a-z_]+)*$/)
    }
  })
})

const skipped = {
  _tag: "Skipped",
  provider: "a",
  model: "m",
  reason: { _tag: "ProbeRunning" }
} as const
