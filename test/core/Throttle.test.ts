import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, Throttle } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Random } from "effect"
import { TestClock } from "effect/testing"

const settings: Throttle.Settings = { k: 2, minimumCalls: 20, maxRate: 0.9, halfLife: 30_000 }

const after = (accepted: number, rejected: number): Throttle.State => {
  let state = Throttle.initial
  for (let call = 0; call < accepted; call++) state = Throttle.counted(settings, state, true, 0)
  for (let call = 0; call < rejected; call++) state = Throttle.counted(settings, state, false, 0)
  return state
}

describe("Throttle, as rules", () => {
  it("K07 refuses nothing below the number of calls that say something", () => {
    assert.strictEqual(Throttle.rate(settings, after(0, 19), 0), 0)
    assert.isAbove(Throttle.rate(settings, after(0, 20), 0), 0)
  })

  it("K07 refuses the excess over the accepted calls, capped", () => {
    assert.strictEqual(Throttle.rate(settings, after(50, 50), 0), 0)
    assert.closeTo(Throttle.rate(settings, after(30, 70), 0), 40 / 101, 1e-9)
    assert.strictEqual(Throttle.rate(settings, after(0, 1000), 0), 0.9)
  })

  it("forgets", () => {
    const state = after(0, 80)

    assert.isAbove(Throttle.rate(settings, state, 30_000), 0)
    assert.strictEqual(Throttle.rate(settings, state, 61_000), 0)
  })

  it("forgets nothing with an endless half-life", () => {
    const endless = { ...settings, halfLife: Infinity }
    let state = Throttle.initial
    for (let call = 0; call < 40; call++) state = Throttle.counted(endless, state, call < 10, 0)

    assert.closeTo(Throttle.rate(endless, state, 1e9), 20 / 41, 1e-9)
  })

  it("has a rate between zero and its cap after any history", () => {
    for (let accepted = 0; accepted < 60; accepted += 3) {
      for (let rejected = 0; rejected < 60; rejected += 3) {
        const rate = Throttle.rate(settings, after(accepted, rejected), 1000)
        assert.isTrue(rate >= 0 && rate <= settings.maxRate)
      }
    }
  })
})

describe("Throttle", () => {
  it("wants sensible options", () => {
    for (const options of [{ k: 0.5 }, { minimumCalls: 0 }, { maxRate: 1 }, { halfLife: 0 }]) {
      assert.throws(() => Throttle.policy(options), RangeError)
    }
  })

  const surge = (options: { readonly accepts: number; readonly error: () => ScriptedProvider.Step }) =>
    Effect.gen(function* () {
      let turn = 0
      const provider = yield* ScriptedProvider.make({
        id: "p",
        script: () => (turn++ % 10 < options.accepts ? ScriptedProvider.answer("Hello") : options.error())
      })
      return { provider, throttled: yield* Throttle.policy()(provider) }
    })

  it.effect("sends about twice as many calls as are accepted to a provider that rejects most", () =>
    Effect.gen(function* () {
      let left = 0
      const provider = yield* ScriptedProvider.make({
        script: () => (left-- > 0 ? ScriptedProvider.answer("Hello") : ScriptedProvider.fail("Overloaded"))
      })
      const throttled = yield* Throttle.policy()(provider)
      const callsIn = Effect.fnUntraced(function* (seconds: number) {
        const before = yield* provider.count
        for (let second = 0; second < seconds; second++) {
          left = 3
          for (let call = 0; call < 20; call++) {
            yield* Effect.ignore(throttled.generate(LlmRequest.make({ prompt: "Hi" })))
            yield* TestClock.adjust("50 millis")
          }
        }
        return (yield* provider.count) - before
      })
      yield* callsIn(60)

      const sent = (yield* callsIn(60)) / 60
      assert.isTrue(sent > 4 && sent < 9, `${sent} calls a second for 3 that are accepted, of 20`)
    }).pipe(Random.withSeed("throttle"))
  )

  it.effect("leaves alone who fails in other ways, and critical requests", () =>
    Effect.gen(function* () {
      const broken = yield* surge({ accepts: 1, error: () => ScriptedProvider.fail("ServerError") })
      const limited = yield* surge({ accepts: 0, error: () => ScriptedProvider.fail("RateLimited") })

      for (let call = 0; call < 200; call++) {
        yield* Effect.ignore(broken.throttled.generate(LlmRequest.make({ prompt: "Hi" })))
        yield* Effect.ignore(limited.throttled.generate(LlmRequest.make({ prompt: "Hi", priority: "critical" })))
      }

      assert.strictEqual(yield* broken.provider.count, 200)
      assert.strictEqual(yield* limited.provider.count, 200)
    })
  )

  it.effect("refuses with a reason that names no error of the provider, and lets the last resort pass", () =>
    Effect.gen(function* () {
      const { provider, throttled } = yield* surge({ accepts: 0, error: () => ScriptedProvider.fail("Overloaded") })
      const request = LlmRequest.make({ prompt: "Hi" })
      for (let call = 0; call < 100; call++) yield* Effect.ignore(throttled.generate(request))
      const before = yield* provider.count

      const errors = yield* Effect.forEach(Array.from({ length: 50 }), () => Effect.flip(throttled.generate(request)))
      yield* Effect.ignore(throttled.generate({ ...request, lastResort: true }))

      const refused = errors.filter((error) => error._tag === "LlmUnavailable")
      assert.isAbove(refused.length, 20)
      assert.deepInclude(refused[0]?._tag === "LlmUnavailable" ? refused[0].attempts[0] : undefined, {
        _tag: "Skipped",
        reason: { _tag: "Saturated" }
      })
      assert.strictEqual(yield* provider.count, before + 50 - refused.length + 1)
    }).pipe(Random.withSeed("refusals"))
  )

  it.effect("finds out that the provider is well again", () =>
    Effect.gen(function* () {
      const { provider, throttled } = yield* surge({ accepts: 0, error: () => ScriptedProvider.fail("Overloaded") })
      const request = LlmRequest.make({ prompt: "Hi" })
      const minute = Effect.gen(function* () {
        let answered = 0
        for (let call = 0; call < 600; call++) {
          answered += (yield* Effect.exit(throttled.generate(request)))._tag === "Success" ? 1 : 0
          yield* TestClock.adjust(Duration.millis(100))
        }
        return answered
      })
      assert.strictEqual(yield* minute, 0)

      yield* provider.setScript([ScriptedProvider.answer("Hello")])
      yield* minute
      assert.strictEqual(yield* minute, 600)
    }).pipe(Random.withSeed("well again"))
  )
})
