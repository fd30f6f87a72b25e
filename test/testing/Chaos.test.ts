import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  LlmRequest,
  LlmResilience,
  type LlmResponse,
  Policy,
  Provider,
  ProviderError,
  ResilienceEvent
} from "@llm-resilience/core"
import { Chaos, ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Duration, Effect, Exit, Fiber, Layer, Option, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })

const shaken = Effect.fnUntraced(function* (
  rules: ReadonlyArray<Chaos.Rule>,
  script: ScriptedProvider.Script = [ScriptedProvider.answer("one two three")]
) {
  const model = yield* ScriptedProvider.make({ id: "model", script })
  return { model, self: yield* Chaos.policy({ rules, seed: 1 })(model) }
})

const kindOf = (exit: Exit.Exit<unknown, unknown>): string => {
  const error = Exit.findErrorOption(exit)
  if (error._tag === "None") return exit._tag
  return ProviderError.isProviderError(error.value) ? ProviderError.kind(error.value) : "another error"
}

const later = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>) {
  const fiber = yield* Effect.forkChild(
    Effect.flatMap(Effect.exit(effect), (exit) => Effect.map(Clock.currentTimeMillis, (at) => ({ exit, at })))
  )
  yield* TestClock.adjust("1 hour")
  return yield* Fiber.join(fiber)
})

const text = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>): string =>
  parts.reduce((text, part) => (part.type === "text-delta" ? text + part.delta : text), "")

describe("Chaos", () => {
  it.effect("K10 injects an error without calling the provider, whole and streamed", () =>
    Effect.gen(function* () {
      const { model, self } = yield* shaken([{ fault: Chaos.rateLimited("7 seconds") }])

      const error = yield* Effect.flip(self.generate(request))
      const streamed = yield* Effect.exit(Stream.runDrain(self.stream(request)))

      assert.deepStrictEqual(
        error._tag === "RateLimited" ? ProviderError.retryAfter(error) : error._tag,
        Duration.seconds(7)
      )
      assert.strictEqual(kindOf(streamed), "RateLimited")
      assert.strictEqual(yield* model.count, 0)
    })
  )

  it.effect("K10 injects an output without calling the provider", () =>
    Effect.gen(function* () {
      const { model, self } = yield* shaken([{ fault: Chaos.refusing }])

      assert.include((yield* self.generate(request)).text, "can't help")
      assert.include(text(yield* Stream.runCollect(self.stream(request))), "can't help")
      assert.strictEqual(yield* model.count, 0)
    })
  )

  it.effect("K09 injects latency before the call", () =>
    Effect.gen(function* () {
      const { model, self } = yield* shaken([{ fault: Chaos.latency("3 seconds") }])

      const { at, exit } = yield* later(self.generate(request))

      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(at, 3000)
      assert.deepStrictEqual(
        (yield* model.calls).map(({ at }) => at),
        [3000]
      )
    })
  )

  it.effect("K09 injects no latency that is negative, and says nothing of it", () =>
    Effect.gen(function* () {
      const { self } = yield* shaken([{ fault: Chaos.latency(Duration.millis(-500)) }])

      assert.strictEqual((yield* self.generate(request)).text, "one two three")
    })
  )

  it.effect("spreads latency as it is told to", () =>
    Effect.gen(function* () {
      const { self } = yield* shaken([{ fault: Chaos.latency({ median: "200 millis", p99: "4 seconds" }) }])
      const lengths: Array<number> = []
      for (let call = 0; call < 300; call++) {
        const before = yield* Clock.currentTimeMillis
        lengths.push((yield* later(self.generate(request))).at - before)
      }
      lengths.sort((left, right) => left - right)

      assert.closeTo(lengths[150] ?? 0, 200, 60)
      assert.isAbove(lengths[296] ?? 0, 1500)
      assert.isBelow(lengths[270] ?? 0, 2500)
    })
  )

  it.effect("hangs until the caller leaves", () =>
    Effect.gen(function* () {
      const { self } = yield* shaken([{ fault: Chaos.hang }])
      const fiber = yield* Effect.forkChild(self.generate(request))
      yield* TestClock.adjust("1 day")

      assert.strictEqual(fiber.pollUnsafe(), undefined)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("cuts and stalls a stream after so many parts", () =>
    Effect.gen(function* () {
      const script = [ScriptedProvider.tokens("one two three")]
      const cut = yield* shaken([{ fault: Chaos.cut(2) }], script)
      const seen: Array<LlmResponse.LlmStreamPart> = []
      const keep = (part: LlmResponse.LlmStreamPart) => Effect.sync(() => seen.push(part))
      const exit = yield* Effect.exit(Stream.runForEach(cut.self.stream(request), keep))
      const stalled = yield* shaken([{ fault: Chaos.stall(1) }], script)
      const waiting = yield* Effect.forkChild(Stream.runDrain(stalled.self.stream(request)))
      yield* TestClock.adjust("1 day")

      assert.strictEqual(kindOf(exit), "StreamCut")
      assert.strictEqual(text(seen), "one two")
      assert.strictEqual(waiting.pollUnsafe(), undefined)
      yield* Fiber.interrupt(waiting)
      assert.strictEqual(yield* stalled.model.running, 0)
    })
  )

  it.effect("slows the tokens down", () =>
    Effect.gen(function* () {
      const { self } = yield* shaken(
        [{ fault: Chaos.slowTokens("1 second") }],
        [ScriptedProvider.tokens("one two three")]
      )

      assert.strictEqual((yield* later(Stream.runDrain(self.stream(request)))).at, 3000)
    })
  )

  it.effect("corrupts what was said, and is seen by the guard when it loops or says nothing", () =>
    Effect.gen(function* () {
      const corrupted = yield* shaken([{ fault: Chaos.corrupted }])
      const kindUnder = Effect.fnUntraced(function* (fault: Chaos.Fault) {
        const { model } = yield* shaken([])
        const guarded = yield* Policy.all([
          LlmResilience.standard({ retry: "off" }),
          Chaos.policy({ rules: [{ fault }] })
        ])(model)
        return kindOf(yield* Effect.exit(guarded.generate(request)))
      })

      assert.include((yield* corrupted.self.generate(request)).text, "\u{FFFD}")
      assert.strictEqual(yield* kindUnder(Chaos.looping), "Loop")
      assert.strictEqual(yield* kindUnder(Chaos.empty), "EmptyOutput")
    })
  )

  it.effect("strikes as often as its rate says, the same calls for the same seed", () =>
    Effect.gen(function* () {
      const struck = Effect.fnUntraced(function* () {
        const { self } = yield* shaken([{ fault: Chaos.error("ServerError"), rate: 0.3 }])
        return yield* Effect.forEach(Array.from({ length: 500 }), () =>
          Effect.map(Effect.exit(self.generate(request)), kindOf)
        )
      })
      const [first, second] = [yield* struck(), yield* struck()]

      assert.deepStrictEqual(first, second)
      assert.closeTo(first.filter((kind) => kind === "ServerError").length, 150, 30)
    })
  )

  it.effect("keeps to its hours, and comes back when it is told to", () =>
    Effect.gen(function* () {
      const { self } = yield* shaken([
        { fault: Chaos.error("Network"), during: { from: "10 seconds", for: "5 seconds", every: "60 seconds" } }
      ])
      const at: Array<readonly [number, string]> = []
      for (const wait of [0, 9999, 1, 4999, 1, 55_000]) {
        yield* TestClock.adjust(wait)
        at.push([yield* Clock.currentTimeMillis, kindOf(yield* Effect.exit(self.generate(request)))])
      }

      assert.deepStrictEqual(at, [
        [0, "Success"],
        [9999, "Success"],
        [10_000, "Network"],
        [14_999, "Network"],
        [15_000, "Success"],
        [70_000, "Network"]
      ])
    })
  )

  it.effect("can be switched off for a call, and changed while it is in place", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok")] })
      const chaos = yield* Chaos.make({ rules: [{ fault: Chaos.error("ServerError") }] })
      const shaken = yield* chaos.guard(model)
      const ask = Effect.map(Effect.exit(shaken.generate(request)), kindOf)

      const off = yield* Effect.provideService(ask, Chaos.Enabled, false)
      const on = yield* ask
      yield* chaos.setRules([{ fault: Chaos.error("Overloaded") }])
      const changed = yield* ask
      yield* chaos.setRules([])

      assert.deepStrictEqual([off, on, changed, yield* ask], ["Success", "ServerError", "Overloaded", "Success"])
      assert.strictEqual(yield* chaos.injected, 2)
    }).pipe(Effect.scoped)
  )

  it.effect("publishes every injection, and the chain copes", () =>
    Effect.gen(function* () {
      const [primary, backup] = [
        yield* ScriptedProvider.make({ id: "primary", script: [ScriptedProvider.answer("from the primary")] }),
        yield* ScriptedProvider.make({ id: "backup", script: [ScriptedProvider.answer("from the backup")] })
      ]
      const standard = LlmResilience.standard({
        retry: "off",
        circuitBreaker: { trip: CircuitBreaker.consecutive(2) }
      })
      const hub = ResilienceEvent.makeHub()
      const service = yield* LlmResilience.make({
        hub,
        steps: [
          {
            provider: primary,
            policy: Policy.all([standard, Chaos.policy({ rules: [{ fault: Chaos.error("Network") }] })])
          },
          { provider: backup, policy: standard }
        ]
      })
      const listening = yield* service.events.pipe(
        Stream.filter((event) => event._tag === "ChaosInjected"),
        Stream.take(2),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )

      const served = yield* Effect.forEach([1, 2, 3], () => service.generate(request))

      assert.deepStrictEqual(
        served.map((response) => response.text),
        ["from the backup", "from the backup", "from the backup"]
      )
      assert.deepStrictEqual(yield* Fiber.join(listening), [
        { _tag: "ChaosInjected", request: 1, provider: "primary", fault: "Network" },
        { _tag: "ChaosInjected", request: 2, provider: "primary", fault: "Network" }
      ])
      assert.strictEqual(yield* primary.count, 0)
    }).pipe(Effect.scoped)
  )

  it.effect("corrupts every stream it says it corrupts, each word in its own way", () =>
    Effect.gen(function* () {
      const words = "The quick brown fox jumps over the lazy dog and goes on for many more words"
      for (let seed = 0; seed < 20; seed++) {
        const model = yield* ScriptedProvider.make({ script: [ScriptedProvider.tokens(words)] })
        const chaos = yield* Chaos.make({ seed, rules: [{ fault: Chaos.corrupted }] })
        const self = yield* chaos.guard(model)
        const whole = (yield* self.generate(request)).text
        const streamed = text(yield* Stream.runCollect(self.stream(request)))

        assert.include(whole, "\u{FFFD}")
        assert.include(streamed, "\u{FFFD}")
        assert.strictEqual(streamed.length, words.length)
        const places = streamed.split(" ").map((word) => Array.from(word).map((letter) => letter === "\u{FFFD}"))
        assert.isAbove(new Set(places.map((word) => word.slice(0, 3).join())).size, 1)
      }
    }).pipe(Effect.scoped)
  )

  it.effect("around the layer of a provider strikes its health checks as well, and tells the events of the chain", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedProvider.make({ id: "primary", script: [ScriptedProvider.answer("ok")] })
      const chaos = yield* Chaos.make({ rules: [{ fault: Chaos.error("Network") }] })
      const chain = LlmResilience.layer({
        health: { unhealthyAfter: 2, interval: "5 seconds" },
        steps: [{ provider: chaos.layer(Layer.succeed(Provider.Provider, model)) }]
      })
      yield* Effect.gen(function* () {
        const service = yield* LlmResilience.LlmResilience
        const struck: Array<string> = []
        yield* Effect.forkScoped(
          Stream.runForEach(service.events, (event) =>
            Effect.sync(() => event._tag === "ChaosInjected" && struck.push(event.provider))
          ),
          { startImmediately: true }
        )
        yield* TestClock.adjust("30 seconds")

        assert.deepStrictEqual(
          (yield* service.health.states).map(({ state }) => state),
          ["unhealthy"]
        )
        assert.isAbove(struck.length, 1)
        assert.strictEqual(yield* model.count, 0)
      }).pipe(Effect.scoped, Effect.provide(chain))
    })
  )

  it.effect("goes around the factory of a name in a configuration, and tells the events of that chain", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ rules: [{ fault: Chaos.error("Network") }] })
      const up: LlmResilience.Factory = ({ id }) =>
        ScriptedProvider.make({ id, script: [ScriptedProvider.answer("ok")] })
      const chain = LlmResilience.layerConfig({
        config: "fallback_chain: [{ provider: shaken, model: m }, { provider: up, model: m }]",
        providers: { up, shaken: (step) => Effect.flatMap(up(step), chaos.guard) },
        standard: { retry: "off" }
      })
      yield* Effect.gen(function* () {
        const service = yield* LlmResilience.LlmResilience
        const first = yield* Effect.forkChild(
          Stream.runHead(Stream.filter(service.events, (event) => event._tag === "ChaosInjected")),
          { startImmediately: true }
        )
        assert.strictEqual((yield* service.generate(request)).served.provider, "up")
        assert.deepInclude(Option.getOrThrow(yield* Fiber.join(first)), { provider: "shaken", fault: "Network" })
      }).pipe(Effect.provide(chain))
    })
  )

  it("refuses what means nothing, and says what was expected", () => {
    const ruled = (rule: Partial<Chaos.Rule>) => () => Chaos.make({ rules: [{ fault: Chaos.hang, ...rule }] })
    assert.throws(ruled({ rate: 1.5 }), "rate must be in [0, 1], got 1.5")
    assert.throws(ruled({ during: { every: "0 seconds" } }), "every must be longer than zero")
    assert.throws(
      ruled({ during: { every: "5 seconds" } }),
      "for must be shorter than during.every (5000 ms), got nothing"
    )
    assert.throws(ruled({ during: { for: "6 seconds", every: "5 seconds" } }), "got 6000 ms")
    assert.throws(() => Chaos.make({ seed: 2.5 }), "seed must be an integer, got 2.5")
    assert.throws(() => Chaos.cut(-1), "afterParts must be an integer >= 0")
    assert.throws(() => Chaos.latency({ min: "3 seconds", max: "1 second" }), "min must not be longer than max")
    assert.throws(() => Chaos.latency({ median: "3 seconds", p99: "1 second" }), "not above p99, got 3000 and 1000 ms")
    assert.throws(() => Chaos.latency({ median: "0 seconds", p99: "1 second" }), "above zero")
  })
})
