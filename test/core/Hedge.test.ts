import { assert, describe, it } from "@effect/vitest"
import {
  Budget,
  Bulkhead,
  Cooldown,
  Fallback,
  Hedge,
  LlmRequest,
  LlmResilience,
  type LlmResponse,
  LlmUnavailable,
  Policy,
  type Provider,
  type ProviderError,
  ResilienceEvent,
  Vitals
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Context, Effect, Exit, Fiber, Random, Scheduler, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })
const slow = (millis: number, step: ScriptedProvider.Step = ScriptedProvider.answer("Hello")) =>
  ScriptedProvider.delay(millis, step)

/** Runs an effect for a virtual hour and says how and when it ended. */
const ends = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>) {
  const start = yield* Clock.currentTimeMillis
  const fiber = yield* Effect.forkChild(
    Effect.flatMap(Effect.exit(effect), (exit) =>
      Effect.map(Clock.currentTimeMillis, (at) => ({ exit, at: at - start }))
    )
  )
  yield* TestClock.adjust("1 hour")
  return yield* Fiber.join(fiber)
})

const first = { after: "1 second" } as const

const kindOf = (exit: Exit.Exit<unknown, Provider.Failure>): string | undefined => {
  const error = Exit.findErrorOption(exit)
  if (error._tag === "None") return undefined
  return error.value._tag === "APIError" ? error.value.reason : error.value._tag
}

const outcomes = (provider: ScriptedProvider.ScriptedProvider) =>
  Effect.map(provider.calls, (calls) => calls.map(({ at, endedAt, outcome }) => ({ at, endedAt, outcome })))

describe("Hedge", () => {
  it("wants sensible options", () => {
    for (const options of [{ after: 0 }, { quantile: 0 }, { quantile: 1 }, { minimum: -1 }, { hedges: 0 }]) {
      assert.throws(() => Hedge.policy(options), RangeError)
    }
  })

  for (const method of ["generate", "stream"] as const) {
    const ask = (provider: Provider.Provider): Effect.Effect<string, Provider.Failure> =>
      method === "generate"
        ? Effect.map(provider.generate(request), ({ text }) => text)
        : Effect.map(Stream.runCollect(provider.stream(request)), (parts) =>
            Array.from(parts, (part) => (part.type === "text-delta" ? part.delta : "")).join("")
          )

    describe(`of ${method}`, () => {
      it.effect("H01 sends nothing when the first is faster than the delay", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ script: [slow(999)] })
          const hedged = yield* Hedge.policy(first)(provider)

          const { at, exit } = yield* ends(ask(hedged))

          assert.deepStrictEqual([at, exit], [999, Exit.succeed("Hello")])
          assert.strictEqual(yield* provider.count, 1)
        })
      )

      it.effect(
        "H02 sends a second call after the delay; the first answer wins, and the other call is interrupted",
        () =>
          Effect.gen(function* () {
            const provider = yield* ScriptedProvider.make({
              script: [slow(60_000, ScriptedProvider.answer("late")), slow(200, ScriptedProvider.answer("early"))]
            })
            const hedged = yield* Hedge.policy(first)(provider)

            const { at, exit } = yield* ends(ask(hedged))

            assert.deepStrictEqual([at, exit], [1200, Exit.succeed("early")])
            assert.deepStrictEqual(yield* outcomes(provider), [
              { at: 0, endedAt: 1200, outcome: "interrupted" },
              { at: 1000, endedAt: 1200, outcome: "answered" }
            ])
          })
      )

      it.effect("H02 lets the first call win when it is faster after all", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ script: [slow(1500), slow(5000)] })
          const hedged = yield* Hedge.policy(first)(provider)

          const { at } = yield* ends(ask(hedged))

          assert.strictEqual(at, 1500)
          assert.deepStrictEqual(
            (yield* outcomes(provider)).map(({ outcome }) => outcome),
            ["answered", "interrupted"]
          )
        })
      )

      it.effect("H02 sends no more than the hedges it may", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ script: [slow(60_000)] })
          const hedged = yield* Hedge.policy({ ...first, hedges: 3 })(provider)

          yield* ends(ask(hedged))

          assert.deepStrictEqual(
            (yield* outcomes(provider)).map(({ at }) => at),
            [0, 1000, 2000, 3000]
          )
        })
      )

      it.effect("H06 gives a failure before the delay up without hedging", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ script: [slow(500, ScriptedProvider.fail("ServerError"))] })
          const hedged = yield* Hedge.policy(first)(provider)

          const { at, exit } = yield* ends(ask(hedged))

          assert.deepStrictEqual([at, kindOf(exit)], [500, "ServerError"])
          assert.strictEqual(yield* provider.count, 1)
        })
      )

      it.effect("H09 waits for the other call when the first end is a failure", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({
            script: [slow(1500, ScriptedProvider.fail("ServerError")), slow(3000)]
          })
          const hedged = yield* Hedge.policy(first)(provider)

          const { at, exit } = yield* ends(ask(hedged))

          assert.deepStrictEqual([at, exit], [4000, Exit.succeed("Hello")])
        })
      )

      it.effect("H09 gives the later error up when both fail", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({
            script: [slow(5000, ScriptedProvider.fail("ServerError")), slow(500, ScriptedProvider.fail("Overloaded"))]
          })
          const hedged = yield* Hedge.policy(first)(provider)

          const { at, exit } = yield* ends(ask(hedged))

          assert.deepStrictEqual([at, kindOf(exit)], [5000, "ServerError"])
        })
      )

      it.effect("gives up with the error of the call that was made when the hedge is refused in the end", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ script: [slow(1500, ScriptedProvider.fail("RateLimited"))] })
          const cooldown = Cooldown.policy({ rest: "1 minute" })
          // The hedge is on its way when the first call puts its provider to rest.
          const late = Policy.make((self) => ({
            generate: (asked) => Effect.delay(self.generate(asked), asked.grant === undefined ? 0 : 800),
            stream: (asked) =>
              Stream.unwrap(Effect.delay(Effect.succeed(self.stream(asked)), asked.grant === undefined ? 0 : 800))
          }))
          const budget = Budget.policy()
          const hedged = yield* Policy.all([Hedge.policy(first), late, cooldown, budget])(provider)

          const { exit } = yield* ends(ask(hedged))

          assert.strictEqual(kindOf(exit), "RateLimited")
          assert.strictEqual(yield* provider.count, 1)
        })
      )

      it.effect("gives up with the error of the call that was made when the hedge met a chain that had nobody", () =>
        Effect.gen(function* () {
          let calls = 0
          const refusing = Policy.make((self) => ({
            generate: (asked) =>
              ++calls === 1 ? self.generate(asked) : Effect.delay(Effect.fail(LlmUnavailable.make([])), 800),
            stream: (asked) =>
              ++calls === 1
                ? self.stream(asked)
                : Stream.unwrap(Effect.delay(Effect.fail(LlmUnavailable.make([])), 800))
          }))
          const provider = yield* ScriptedProvider.make({ script: [slow(1500, ScriptedProvider.fail("ServerError"))] })
          const hedged = yield* Policy.all([Hedge.policy(first), refusing])(provider)

          const { at, exit } = yield* ends(ask(hedged))

          assert.deepStrictEqual([at, kindOf(exit)], [1800, "ServerError"])
        })
      )

      it.effect("H05 ends both at an error that would be the same everywhere", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({
            script: [slow(60_000), slow(500, ScriptedProvider.fail("InvalidRequest"))]
          })
          const hedged = yield* Hedge.policy(first)(provider)

          const { at, exit } = yield* ends(ask(hedged))

          assert.deepStrictEqual([at, kindOf(exit)], [1500, "InvalidRequest"])
          assert.strictEqual(yield* provider.running, 0)
        })
      )

      it.effect("ends both calls when the caller leaves", () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.hang] })
          const hedged = yield* Hedge.policy(first)(provider)

          const fiber = yield* Effect.forkChild(ask(hedged), { startImmediately: true })
          yield* TestClock.adjust("2 seconds")
          assert.strictEqual(yield* provider.running, 2)
          yield* Fiber.interrupt(fiber)

          assert.strictEqual(yield* provider.running, 0)
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(yield* provider.count, 2)
        })
      )
    })
  }

  it.effect("does not wait for the cleanup of the loser", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.hang, slow(100)] })
      const clingy: Provider.Provider = {
        ...provider,
        generate: (asked) => Effect.onInterrupt(provider.generate(asked), () => Effect.sleep("30 seconds"))
      }
      const hedged = yield* Hedge.policy(first)(clingy)

      const { at } = yield* ends(hedged.generate(request))

      assert.strictEqual(at, 1100)
    })
  )

  it.effect("hedges a stream before its first content only", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.stream(["Hel", ScriptedProvider.pause("1 minute"), "lo"])]
      })
      const hedged = yield* Hedge.policy(first)(provider)

      yield* ends(Stream.runDrain(hedged.stream(request)))

      assert.strictEqual(yield* provider.count, 1)
    })
  )

  it.effect("waits for the time that 95 of 100 calls need, once it knows it", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: (index) => slow(10 * ((index % 100) + 1)) })
      const hedged = yield* Policy.all([Hedge.policy(), Vitals.policy({ warmUp: 100 })])(provider)
      for (let call = 0; call < 100; call++) yield* ends(hedged.generate(request))
      assert.strictEqual(yield* provider.count, 100)
      yield* provider.setScript([ScriptedProvider.hang, slow(1)])

      const { at } = yield* ends(hedged.generate(request))

      assert.strictEqual(at, 951)
    })
  )

  it.effect("never hedges earlier than the minimum, however fast the provider is", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [slow(1)] })
      const hedged = yield* Policy.all([Hedge.policy({ minimum: "300 millis" }), Vitals.policy()])(provider)
      for (let call = 0; call < 30; call++) yield* ends(hedged.generate(request))
      yield* provider.setScript([ScriptedProvider.hang, slow(1)])

      const { at } = yield* ends(hedged.generate(request))

      assert.strictEqual(at, 301)
    })
  )

  it.effect("H12 gives the second call the caller's context and a copy of its request", () =>
    Effect.gen(function* () {
      const Tenant = Context.Reference<string>("test/Tenant", { defaultValue: () => "nobody" })
      const seen: Array<string> = []
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.hang, slow(1)] })
      const noting: Provider.Provider = {
        ...provider,
        generate: (asked) =>
          Effect.flatMap(Tenant, (tenant) => {
            seen.push(tenant)
            return provider.generate(asked)
          })
      }
      const hedged = yield* Hedge.policy(first)(noting)

      yield* ends(Effect.provideService(hedged.generate(request), Tenant, "acme"))

      assert.deepStrictEqual(seen, ["acme", "acme"])
    })
  )

  it.effect("H13 leaves what the winner started in the background alone", () =>
    Effect.gen(function* () {
      let written = 0
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.hang, slow(1)] })
      const scope = yield* Effect.scope
      const writing: Provider.Provider = {
        ...provider,
        generate: (asked) =>
          Effect.tap(provider.generate(asked), () =>
            Effect.forkIn(
              Effect.andThen(
                Effect.sleep("1 second"),
                Effect.sync(() => written++)
              ),
              scope
            )
          )
      }
      const hedged = yield* Hedge.policy(first)(writing)

      yield* ends(hedged.generate(request))

      assert.strictEqual(written, 1)
    })
  )

  it.effect("sends nothing when the request has no attempts left, or as a last resort", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [slow(5000)] })
      const hedged = yield* Hedge.policy(first)(provider)

      yield* ends(hedged.generate({ ...request, allowance: { left: 0 } }))
      yield* ends(hedged.generate({ ...request, lastResort: true }))

      assert.strictEqual(yield* provider.count, 2)
    })
  )

  it.effect("gives back exactly what it held, over random interleavings", () =>
    Effect.gen(function* () {
      for (let history = 0; history < 150; history++) {
        const provider = yield* ScriptedProvider.make({
          script: () => ScriptedProvider.hang,
          id: "p"
        })
        const moody: Provider.Provider = {
          ...provider,
          generate: (asked) =>
            Effect.gen(function* () {
              const millis = yield* Random.nextIntBetween(1, 3000)
              const fate = yield* Random.nextIntBetween(0, 3)
              const script = fate === 0 ? ScriptedProvider.fail("ServerError") : ScriptedProvider.answer("Hello")
              yield* provider.setScript([fate === 3 ? ScriptedProvider.hang : slow(millis, script)])
              return yield* provider.generate(asked)
            })
        }
        const vitals = yield* Vitals.make()
        const hedged = yield* Policy.all([Hedge.policy({ ...first, hedges: 2 }), Budget.policy()])(vitals.guard(moody))
        const callers = yield* Effect.forEach(Array.from({ length: 5 }), () =>
          Effect.forkChild(Effect.exit(hedged.generate(request)), { startImmediately: true })
        )
        for (const caller of callers) {
          yield* TestClock.adjust(yield* Random.nextIntBetween(0, 2000))
          if (yield* Random.nextBoolean) yield* Fiber.interrupt(caller)
        }
        yield* TestClock.adjust("1 minute")
        for (const caller of callers) yield* Fiber.interrupt(caller)

        assert.strictEqual(yield* provider.running, 0, `history ${history}`)
        assert.strictEqual((yield* vitals.reading).inFlight, 0, `history ${history}`)
      }
    }).pipe(Random.withSeed("hedges"))
  )
})

describe("A chain that hedges", () => {
  const chainOf = Effect.fnUntraced(function* (
    scripts: { readonly [id: string]: ReadonlyArray<ScriptedProvider.Step> },
    options?: Fallback.Options
  ) {
    const hub = ResilienceEvent.makeHub()
    const events: Array<ResilienceEvent.ResilienceEvent> = []
    yield* Effect.forkScoped(
      Stream.runForEach(hub.stream, (event) => Effect.sync(() => events.push(event))),
      { startImmediately: true }
    )
    const providers = yield* Effect.forEach(Object.entries(scripts), ([id, script]) =>
      ScriptedProvider.make({ id, script })
    )
    const [head, ...tail] = providers
    if (head === undefined) return yield* Effect.die("no provider")
    const chain = yield* Fallback.make([head, ...tail], { hedge: first, ...options }).pipe(
      Effect.provideService(ResilienceEvent.CurrentHub, hub)
    )
    return { chain, events, providers, counts: Effect.forEach(providers, ({ count }) => count) }
  })

  const story = (served: LlmResponse.Served | undefined) =>
    served?.attempts.map((attempt) => `${attempt.provider} ${attempt._tag}`)

  const answers = (id: string, millis: number) => [slow(millis, ScriptedProvider.answer(`from ${id}`))]
  const fails = (reason: ProviderError.Kind, millis: number) => [slow(millis, ScriptedProvider.fail(reason))]

  it.effect("asks the next step beside a slow one, and tells who was given up", () =>
    Effect.gen(function* () {
      const { chain, events, providers } = yield* chainOf({ a: answers("a", 60_000), b: answers("b", 300) })

      const { at, exit } = yield* ends(chain.generate(request))

      const served = Exit.isSuccess(exit) ? exit.value.served : undefined
      assert.deepStrictEqual([at, served?.provider], [1300, "b"])
      assert.deepStrictEqual(story(served), ["a Superseded"])
      assert.strictEqual(served?.notice?._tag, "BackupService")
      assert.strictEqual(yield* providers[0]?.running ?? Effect.die("gone"), 0)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(
        events.map(({ _tag }) => _tag),
        ["AttemptStarted", "Hedged", "AttemptStarted", "AttemptSucceeded", "AttemptSuperseded"]
      )
    })
  )

  it.effect("lets the slow step win, and has no notice for the user then", () =>
    Effect.gen(function* () {
      const { chain } = yield* chainOf({ a: answers("a", 1500), b: answers("b", 60_000) })

      const { exit } = yield* ends(chain.generate(request))

      const served = Exit.isSuccess(exit) ? exit.value.served : undefined
      assert.strictEqual(served?.provider, "a")
      assert.deepStrictEqual(story(served), ["b Superseded"])
      assert.isUndefined(served?.notice)
    })
  )

  it.effect("streams: the first content wins, the reader sees one start, and the loser is closed", () =>
    Effect.gen(function* () {
      const { chain, providers } = yield* chainOf({
        a: [ScriptedProvider.stream([ScriptedProvider.pause("1 minute"), "late"])],
        b: [
          ScriptedProvider.stream([
            ScriptedProvider.pause("200 millis"),
            "ear",
            ScriptedProvider.pause("1 minute"),
            "ly"
          ])
        ]
      })

      const { at, exit } = yield* ends(Stream.runCollect(chain.stream(request)))

      const parts = Exit.isSuccess(exit) ? Array.from(exit.value) : []
      assert.strictEqual(at, 61_200)
      assert.strictEqual(parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join(""), "early")
      assert.strictEqual(parts.filter((part) => part.type === "served").length, 1)
      assert.strictEqual((yield* providers[0]?.calls ?? Effect.die("gone"))[0]?.endedAt, 1200)
    })
  )

  it.effect("starts the next step at once when the first one fails, hedged or not", () =>
    Effect.gen(function* () {
      const early = yield* chainOf({ a: fails("ServerError", 400), b: answers("b", 300) })
      assert.strictEqual((yield* ends(early.chain.generate(request))).at, 700)

      const late = yield* chainOf({ a: fails("ServerError", 1100), b: answers("b", 300) })
      const { at, exit } = yield* ends(late.chain.generate(request))

      assert.strictEqual(at, 1300)
      assert.deepStrictEqual(story(Exit.isSuccess(exit) ? exit.value.served : undefined), ["a Failed"])
      assert.deepStrictEqual(yield* late.counts, [1, 1])
    })
  )

  it.effect("goes on down the chain when the hedge fails, and still waits for the slow step", () =>
    Effect.gen(function* () {
      const on = yield* chainOf({ a: answers("a", 60_000), b: fails("ServerError", 100), c: answers("c", 100) })
      const { at, exit } = yield* ends(on.chain.generate(request))
      assert.strictEqual(at, 1200)
      assert.deepStrictEqual(story(Exit.isSuccess(exit) ? exit.value.served : undefined), ["b Failed", "a Superseded"])

      const back = yield* chainOf({ a: answers("a", 5000), b: fails("ServerError", 100), c: fails("Overloaded", 100) })
      const waited = yield* ends(back.chain.generate(request))
      assert.strictEqual(waited.at, 5000)
      assert.deepStrictEqual(story(Exit.isSuccess(waited.exit) ? waited.exit.value.served : undefined), [
        "b Failed",
        "c Failed"
      ])
    })
  )

  it.effect("ends with the whole story when everybody fails, each asked once", () =>
    Effect.gen(function* () {
      const { chain, counts } = yield* chainOf({
        a: fails("ServerError", 5000),
        b: fails("Overloaded", 100),
        c: fails("Network", 100)
      })

      const { exit } = yield* ends(chain.generate(request))

      const error = Exit.findErrorOption(exit)
      assert.strictEqual(error._tag === "Some" ? error.value._tag : undefined, "LlmUnavailable")
      assert.deepStrictEqual(
        error._tag === "Some" && error.value._tag === "LlmUnavailable"
          ? error.value.attempts.map(({ provider }) => provider)
          : [],
        ["b", "c", "a"]
      )
      assert.deepStrictEqual(yield* counts, [1, 1, 1])
    })
  )

  it.effect("ends at once at an error that would be the same everywhere", () =>
    Effect.gen(function* () {
      const { chain, providers } = yield* chainOf({ a: answers("a", 60_000), b: fails("InvalidRequest", 100) })

      const { at, exit } = yield* ends(chain.generate(request))

      assert.deepStrictEqual([at, kindOf(exit)], [1100, "InvalidRequest"])
      assert.strictEqual(yield* providers[0]?.running ?? Effect.die("gone"), 0)
    })
  )

  it.effect("hedges no oftener than it may, over the whole chain", () =>
    Effect.gen(function* () {
      const scripts = { a: answers("a", 60_000), b: answers("b", 60_000), c: answers("c", 60_000) }
      const once = yield* chainOf(scripts)
      const twice = yield* chainOf(scripts, { hedge: { ...first, hedges: 2 } })

      yield* ends(once.chain.generate(request))
      yield* ends(twice.chain.generate(request))

      assert.deepStrictEqual(yield* once.counts, [1, 1, 0])
      assert.deepStrictEqual(yield* twice.counts, [1, 1, 1])
    })
  )

  it.effect("takes each call from the attempts of the request, and no hedge where none is left", () =>
    Effect.gen(function* () {
      const { chain, counts } = yield* chainOf({
        a: answers("a", 60_000),
        b: fails("ServerError", 1),
        c: answers("c", 1)
      })

      yield* ends(chain.generate({ ...request, allowance: { left: 1 } }))
      assert.deepStrictEqual(yield* counts, [1, 1, 0])
      yield* ends(chain.generate({ ...request, allowance: { left: 0 } }))

      assert.deepStrictEqual(yield* counts, [2, 1, 0])
    })
  )

  it.effect("ends both calls when the caller leaves", () =>
    Effect.gen(function* () {
      const { chain, providers } = yield* chainOf({ a: [ScriptedProvider.hang], b: [ScriptedProvider.hang] })

      const fiber = yield* Effect.forkChild(chain.generate(request), { startImmediately: true })
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* Effect.forEach(providers, ({ running }) => running), [1, 1])
      yield* Fiber.interrupt(fiber)

      assert.deepStrictEqual(yield* Effect.forEach(providers, ({ running }) => running), [0, 0])
    })
  )

  it.effect("does not hedge at one step, nor when nobody else would take the request", () =>
    Effect.gen(function* () {
      const { chain, counts } = yield* chainOf({ a: answers("a", 60_000) })

      yield* ends(chain.generate(request))

      assert.deepStrictEqual(yield* counts, [1])
    })
  )
})

describe("A hedge in a chain", () => {
  it.effect("leaves the attempt that is reserved for the backup", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [slow(3000, ScriptedProvider.fail("ServerError"))] })
      const b = yield* ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("from b")] })
      const resilience = yield* LlmResilience.make({
        policy: LlmResilience.standard({ hedge: first }),
        steps: [{ provider: a }, { provider: b }]
      })
      const { exit } = yield* ends(resilience.generate(LlmRequest.make({ prompt: "Hi", attempts: 2 })))

      assert.strictEqual(Exit.isSuccess(exit) ? exit.value.text : undefined, "from b")
      assert.deepStrictEqual([yield* a.count, yield* b.count], [1, 1])
    })
  )

  it.effect("takes a permit of the bulkhead of its provider", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [slow(10_000)] })
      const self = yield* LlmResilience.standard({ bulkhead: { permits: 2 }, hedge: { ...first, hedges: 3 } })(provider)
      const calls = yield* Effect.forkChild(
        Effect.all([self.generate(request), self.generate(request)], { concurrency: 2 })
      )

      for (let second = 0; second < 9; second++) {
        yield* TestClock.adjust("1 second")
        assert.isAtMost(yield* provider.running, 2)
      }
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(calls)
    })
  )
})

describe("A chain that hedges and is its own last resort", () => {
  const ids = ["a", "b", "c"] as const

  // Turns enough in every tenth of a second for those who do little in each.
  const pass = (millis: number) =>
    Effect.forEach(
      Array.from({ length: Math.ceil(millis / 100) }, (_, step) => Math.min(100, millis - 100 * step)),
      (part) => Effect.andThen(TestClock.adjust(part), Effect.repeat(Effect.yieldNow, { times: 25 })),
      { discard: true }
    )

  /** One random life of a chain: callers come, wait in lines, are hedged, leave, and take the last resort. */
  const life = Effect.fnUntraced(function* (lines: boolean) {
    const between = Random.nextIntBetween
    const steps = yield* Effect.forEach(ids, (id) =>
      Effect.gen(function* () {
        const kinds = yield* Effect.forEach(Array.from({ length: 40 }), () =>
          Effect.all([between(0, 10), between(1, 4000)])
        )
        const provider = yield* ScriptedProvider.make({
          id,
          script: kinds.map(([kind, millis]) => {
            if (kind === 0) return ScriptedProvider.hang
            if (kind > 4 || lines) return slow(millis)
            return slow(millis, ScriptedProvider.fail(kind === 4 ? "Authentication" : "ServerError"))
          })
        })
        const budget = yield* Budget.make({ name: id, floor: 100, ratio: 0, halfLife: "1000000 hours" })
        const bulkhead = yield* Bulkhead.make({ permits: lines ? 2 : 1000, queue: 3, maxWait: "500 millis" })
        const rested = yield* Cooldown.policy({ isolation: "1 hour" })(budget.guard(provider))
        return { budget, bulkhead, provider, self: bulkhead.guard(rested) }
      })
    )
    const [a, b, c] = steps
    if (a === undefined || b === undefined || c === undefined) return yield* Effect.die("three steps")
    const chain = yield* Fallback.make([a.self, b.self, c.self], { hedge: { ...first, hedges: 2 }, lastResortEvery: 0 })
    const callers: Array<{ readonly allowance: { left: number } }> = []
    for (let caller = 0; caller < 12; caller++) {
      const allowance = { left: 20 }
      const left = yield* Random.nextBoolean
      callers.push({ allowance })
      const mine = { ...request, allowance }
      const whole: Effect.Effect<unknown, Provider.Failure> = chain.generate(mine)
      const call = yield* ((yield* Random.nextBoolean) ? whole : Stream.runDrain(chain.stream(mine))).pipe(
        Effect.provideService(Scheduler.MaxOpsBeforeYield, yield* between(8, 60)),
        Effect.exit,
        Effect.forkChild({ startImmediately: true })
      )
      const turns = yield* between(0, 60)
      yield* pass(yield* between(0, 2500))
      if (left) {
        for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
        yield* Fiber.interrupt(call)
      }
    }
    // Longer than everybody who does not hang.
    yield* pass(30_000)
    return { callers, chain, steps }
  })

  const seenOf = (
    steps: ReadonlyArray<{ readonly provider: ScriptedProvider.ScriptedProvider }>,
    allowance: { readonly left: number }
  ) =>
    Effect.map(
      Effect.forEach(steps, ({ provider }) => provider.calls),
      (calls) => calls.flat().filter(({ request }) => request.allowance === allowance).length
    )

  it.effect("takes from the budgets exactly the hedges that somebody saw, whoever waits, refuses or leaves", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 20; round++) {
        const { callers, steps } = yield* life(true)
        let extras = 0
        for (const { allowance } of callers) {
          const extra = Math.max(0, (yield* seenOf(steps, allowance)) - 1)
          extras += extra
          assert.strictEqual(20 - allowance.left, extra, `attempts in round ${round}`)
        }
        const left = yield* Effect.forEach(steps, ({ budget }) => budget.left)

        assert.closeTo(300 - left.reduce((sum, one) => sum + one, 0), extras, 0.01, `budgets in round ${round}`)
      }
    }).pipe(Random.withSeed("hedging along a chain"))
  )

  it.effect("takes an attempt for every call and leaves nothing under way, whoever fails, rests or leaves", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 20; round++) {
        const { callers, chain, steps } = yield* life(false)
        for (const { allowance } of callers) {
          const extra = Math.max(0, (yield* seenOf(steps, allowance)) - 1)
          assert.strictEqual(20 - allowance.left, extra, `attempts in round ${round}`)
        }
        for (const { bulkhead, provider } of steps) {
          assert.strictEqual((yield* bulkhead.state).inFlight, yield* provider.running, `permits in round ${round}`)
          yield* provider.setScript([ScriptedProvider.answer("Hello")])
        }
        // However they left, the last resort is there for the next one.
        const exit = yield* Effect.exit(chain.generate(request))
        assert.isTrue(Exit.isSuccess(exit), `last resort in round ${round}`)
      }
    }).pipe(Random.withSeed("the last resort of a chain"))
  )
})
