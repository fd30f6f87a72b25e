/** What the reports of real limits do to real traffic: fixed windows and token buckets, requests and tokens. */
import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Duration, Effect, Exit, Fiber, Option, Schema } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })

interface Rule {
  /** Takes one when there is one, and says what is left. */
  readonly take: (now: number) => boolean
  readonly report: (now: number) => LlmResponse.Limit
  readonly retryAfter: (now: number) => number
}

const window = (limit: number, millis: number): Rule => {
  let index = -1
  let used = 0
  const at = (now: number) => {
    if (Math.floor(now / millis) === index) return
    index = Math.floor(now / millis)
    used = 0
  }
  return {
    take: (now) => {
      at(now)
      if (used >= limit) return false
      used++
      return true
    },
    report: (now) => {
      at(now)
      return { limit, remaining: limit - used, reset: Duration.millis(millis - (now % millis)) }
    },
    retryAfter: (now) => millis - (now % millis)
  }
}

const bucket = (limit: number, millis: number): Rule => {
  const interval = millis / limit
  let fullAt = 0
  const left = (now: number) => (millis - Math.max(0, fullAt - now)) / interval
  return {
    take: (now) => {
      if (left(now) < 1 - 1e-9) return false
      fullAt = Math.max(fullAt, now) + interval
      return true
    },
    report: (now) => ({
      limit,
      remaining: Math.floor(left(now) + 1e-9),
      reset: Duration.millis(Math.max(0, fullAt - now))
    }),
    retryAfter: (now) => Math.max(1, (1 - left(now)) * interval)
  }
}

const rules = { window, bucket }

// A provider looks at its limit when a call comes; some report what was left then, and some what is left when they answer.
const provide = (rule: Rule, latency: (call: number) => number, reports: "asked" | "answered" = "answered") => {
  const seen = { calls: 0, answered: 0, refused: 0 }
  const provider = Provider.make({
    id: "primary",
    model: "m",
    generate: () =>
      Effect.gen(function* () {
        const now = yield* Clock.currentTimeMillis
        const call = seen.calls++
        if (!rule.take(now)) {
          seen.refused++
          const retryAfter = Option.some(Duration.millis(Math.ceil(rule.retryAfter(now))))
          return yield* new ProviderError.RateLimited({ provider: "primary", retryAfter })
        }
        seen.answered++
        const early = rule.report(now)
        const millis = latency(call)
        if (millis > 0) yield* Effect.sleep(Duration.millis(millis))
        const requests = reports === "asked" ? early : rule.report(now + millis)
        return { content: LlmResponse.textContent("ok"), limits: { requests } }
      })
  })
  return { provider, seen }
}

/** Sends one call every so often, through the policy that everybody has, and says how many the backup had to answer. */
const send = Effect.fnUntraced(function* (provider: Provider.Provider, every: number, calls: number) {
  const backup = yield* ScriptedProvider.make({ id: "backup", script: [ScriptedProvider.answer("b")] })
  const service = yield* LlmResilience.make({ steps: [{ provider }, { provider: backup }] })
  for (let call = 0; call < calls; call++) {
    yield* Effect.forkChild(service.generate(request), { startImmediately: true })
    yield* TestClock.adjust(every)
  }
  return yield* backup.count
})

describe("a learnt limit", () => {
  it.effect("of a fixed window is used up to its end", () =>
    Effect.gen(function* () {
      for (const [limit, millis, every, calls, reports] of [
        [600, 60_000, 200, 900, "answered"],
        [60, 60_000, 2000, 120, "answered"],
        [60, 60_000, 20, 60, "asked"],
        [50, 86_400_000, 60_000, 50, "answered"],
        [10_000, 86_400_000, 20_000, 600, "answered"]
      ] as const) {
        const { provider, seen } = provide(window(limit, millis), () => 500, reports)
        const backup = yield* send(provider, every, calls)
        assert.deepStrictEqual([backup, seen.refused, seen.calls], [0, 0, calls], `${limit} in ${millis} ms`)
      }
    })
  )

  it.effect("of a bucket whose reset is told in whole seconds costs nobody below it a call", () =>
    Effect.gen(function* () {
      for (const [limit, every] of [
        [4000, 100],
        [1000, 200],
        [50, 2400]
      ] as const) {
        const exact = bucket(limit, 60_000)
        const report = (now: number) => {
          const told = exact.report(now)
          const at = now + Duration.toMillis(told.reset ?? 0)
          return { ...told, reset: Duration.millis(Math.ceil(at / 1000) * 1000 - now) }
        }
        const { provider, seen } = provide({ ...exact, report }, () => 500)
        const calls = Math.floor(120_000 / every)
        assert.deepStrictEqual([yield* send(provider, every, calls), seen.refused], [0, 0], `${limit}`)
      }
    })
  )

  it.effect("is what the last report says that is left", () =>
    Effect.gen(function* () {
      let calls = 0
      const provider = Provider.make({
        id: "p",
        model: "m",
        generate: () =>
          Effect.gen(function* () {
            const first = calls++ === 0
            yield* Effect.sleep("500 millis")
            const requests = first
              ? { limit: 4000, remaining: 3999, reset: Duration.seconds(1) }
              : { limit: 4000, remaining: 4000 - calls, reset: Duration.seconds(2) }
            return { content: LlmResponse.textContent("ok"), limits: { requests } }
          })
      })
      const service = yield* LlmResilience.make({ steps: [{ provider }] })
      const ask = Effect.fnUntraced(function* (times: number) {
        const fiber = yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: times }, () => service.generate(request)),
            { concurrency: "unbounded" }
          )
        )
        yield* TestClock.adjust("600 millis")
        return yield* Fiber.join(fiber)
      })
      yield* ask(1)
      yield* ask(100)

      assert.isAtLeast((yield* service.status)[0]?.limits?.requests?.remaining ?? 0, 3899)
      yield* ask(1)
      assert.strictEqual(calls, 102)
    })
  )

  it.effect("of tokens holds for a provider that never says what a call used", () =>
    Effect.gen(function* () {
      for (const told of [29_950, 30_000]) {
        const tokens = { limit: 30_000, remaining: told, reset: Duration.millis(100) }
        const provider = yield* ScriptedProvider.make({
          script: [ScriptedProvider.answer("ok", { limits: { tokens } })]
        })
        const service = yield* LlmResilience.make({ steps: [{ provider }] })
        let answered = 0
        for (let call = 0; call < 300; call++) {
          const exit = yield* Effect.exit(service.generate(request))
          if (Exit.isSuccess(exit)) answered++
          yield* TestClock.adjust("100 millis")
        }
        assert.strictEqual(answered, 300)
      }
    })
  )

  const Traffic = Schema.Struct({
    rule: Schema.Literals(["window", "bucket"]),
    limit: Schema.Literals([10, 60, 300]),
    latency: Schema.Literals([0, 100, 900, 4000]),
    jitter: Schema.Literals([0, 300, 2500]),
    share: Schema.Literals([0.3, 0.6, 0.9])
  })
  type Traffic = typeof Traffic.Type
  const latencyOf =
    ({ jitter, latency }: Traffic) =>
    (call: number) =>
      latency + (jitter * ((call * 7919) % 100)) / 100

  const atOnceOf = ({ jitter, latency }: Traffic, every: number) => Math.ceil((latency + jitter) / every)
  const Reports = Schema.Literals(["asked", "answered"])

  it.effect.prop(
    "never refuses a client that stays below it",
    { traffic: Traffic, reports: Reports },
    ({ reports, traffic }) =>
      Effect.gen(function* () {
        const { limit, rule, share } = traffic
        const every = Math.ceil(60_000 / limit / share)
        // What is left when a call is answered holds the calls that are still under way, and they are counted once more.
        const twice = reports === "answered" && 60_000 / every + atOnceOf(traffic, every) >= limit
        const { provider, seen } = provide(rules[rule](limit, 60_000), latencyOf(traffic), twice ? "asked" : reports)
        const calls = Math.min(300, Math.ceil(150_000 / every))

        assert.deepStrictEqual([yield* send(provider, every, calls), seen.refused], [0, 0])
      }),
    { arbitrary: { runs: 40 } }
  )

  it.effect.prop(
    "gives a client that wants more nearly all that the provider has, and runs into few refusals",
    { traffic: Traffic, reports: Reports },
    ({ reports, traffic }) =>
      Effect.gen(function* () {
        const { limit, rule, share } = traffic
        const { provider, seen } = provide(rules[rule](limit, 60_000), latencyOf(traffic), reports)
        const every = Math.floor((60_000 / limit) * share)
        const calls = Math.floor(179_000 / every)
        yield* send(provider, every, calls)

        // Three windows, or a full bucket and three minutes of its filling.
        const most = Math.min(calls, rule === "window" ? 3 * limit : limit + Math.floor((179 / 60) * limit))
        assert.isAtLeast(seen.answered, 0.9 * most)
        // One call finds out whether a window is filled evenly, and those under way with it. What is told when a call is answered holds what was
        // filled since it was sent, which is counted once more.
        const finding = 3 * (1 + atOnceOf(traffic, every))
        const isPlain = reports === "asked" && rule === "window"
        assert.isAtMost(seen.refused, isPlain ? finding : Math.max(finding, 0.2 * seen.calls))
      }),
    { arbitrary: { runs: 40 } }
  )
})
