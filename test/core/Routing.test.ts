import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  Fallback,
  type HealthChecker,
  LlmRequest,
  LlmResilience,
  LlmResponse,
  Provider,
  ProviderError,
  ResilienceEvent,
  Routing
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"

interface Facts {
  readonly id: string
  readonly priority?: number
  readonly weight?: number
  readonly latency?: number
  readonly inFlight?: number
  readonly price?: number
  readonly health?: HealthChecker.State
}

const member = ({ health, id, inFlight = 0, latency, price, priority = 0, weight = 1 }: Facts): Routing.Member => ({
  priority,
  weight,
  provider: {
    ...Provider.make({
      id,
      model: "m",
      capabilities: price === undefined ? {} : { price: { inputPerMillion: price, outputPerMillion: price } },
      generate: () => Effect.succeed({ content: LlmResponse.textContent(id) })
    }),
    ...(health === undefined ? {} : { health: () => health }),
    vitals: {
      reading: Effect.die("not read"),
      quantile: () => undefined,
      mayHang: () => false,
      listen: () => () => {},
      guard: (self) => self,
      at: () => ({
        calls: 0,
        successRatio: 1,
        inFlight,
        hanging: false,
        measuredAt: { generate: 0, stream: 0 },
        latency: { generate: latency, stream: latency },
        usual: { generate: undefined, stream: undefined },
        succeededAt: -Infinity,
        failedAt: -Infinity,
        lastError: undefined
      })
    }
  }
})

const request = LlmRequest.make({ prompt: "Hi" })
const ids = (order: ReadonlyArray<Provider.Provider>) => order.map(({ id }) => id).join(" ")
const orderOf = (options: Routing.Options, ...facts: ReadonlyArray<Facts>) =>
  ids(Routing.make(facts.map(member), options)(request, "generate", 0))

const firsts = (order: ReturnType<typeof Routing.make>, times: number, asked = request) => {
  const counts: Record<string, number> = {}
  for (let time = 0; time < times; time++) {
    const first = order(asked, "generate", 0)[0]?.id ?? "nobody"
    counts[first] = (counts[first] ?? 0) + 1
  }
  return counts
}

describe("Routing", () => {
  it("asks by rising priority, whatever the strategy", () => {
    const facts = [
      { id: "late", priority: 7, latency: 1, price: 1 },
      { id: "early", priority: 2, latency: 99, price: 99 },
      { id: "middle", priority: 3 }
    ]
    for (const strategy of ["ordered", "weighted", "least-latency", "least-busy", "cheapest"] as const) {
      assert.strictEqual(orderOf({ strategy }, ...facts), "early middle late")
    }
  })

  it("shares the load of equal priorities by weight, evenly interleaved", () => {
    const order = Routing.make([member({ id: "a", weight: 5 }), member({ id: "b" }), member({ id: "c" })])

    const seven = Array.from({ length: 7 }, () => order(request, "generate", 0)[0]?.id).join("")

    assert.strictEqual(seven, "aabacaa")
    assert.deepStrictEqual(firsts(order, 700), { a: 500, b: 100, c: 100 })
  })

  it("spreads what one of them cannot take over the others", () => {
    const order = Routing.make(["a", "b", "c", "d"].map((id) => member({ id })))
    const counts: Record<string, number> = {}
    for (let time = 0; time < 1200; time++) {
      const taker = order(request, "generate", 0).find(({ id }) => id !== "a")?.id ?? "nobody"
      counts[taker] = (counts[taker] ?? 0) + 1
    }

    for (const id of ["b", "c", "d"]) assert.closeTo(counts[id] ?? 0, 400, 110)
  })

  it("puts the fastest first, and less so the more it has to do", () => {
    const strategy = "least-latency"
    assert.strictEqual(orderOf({ strategy }, { id: "slow", latency: 900 }, { id: "fast", latency: 200 }), "fast slow")
    assert.strictEqual(
      orderOf({ strategy }, { id: "slow", latency: 900 }, { id: "fast", latency: 200, inFlight: 9 }),
      "slow fast"
    )
    assert.strictEqual(orderOf({ strategy }, { id: "known", latency: 1 }, { id: "unknown" }), "unknown known")
  })

  it("puts the least busy first, for its weight", () => {
    assert.strictEqual(
      orderOf({ strategy: "least-busy" }, { id: "a", inFlight: 3 }, { id: "b", inFlight: 8, weight: 4 }),
      "b a"
    )
  })

  it("puts the cheapest first, and who has no price last", () => {
    assert.strictEqual(
      orderOf({ strategy: "cheapest" }, { id: "unknown" }, { id: "dear", price: 5 }, { id: "cheap", price: 1 }),
      "cheap dear unknown"
    )
  })

  it("puts health before every strategy, and never before priority", () => {
    for (const strategy of ["ordered", "weighted", "least-latency", "least-busy", "cheapest"] as const) {
      assert.strictEqual(
        orderOf(
          { strategy },
          { id: "ill", health: "unhealthy", latency: 1, price: 1 },
          { id: "poorly", health: "degraded", latency: 2, price: 2 },
          { id: "well", health: "healthy", latency: 3, price: 3 },
          { id: "backup", priority: 1, health: "healthy" }
        ),
        "well poorly ill backup"
      )
    }
  })

  it("takes a function; whom it leaves out is asked last, whom it invents is not asked", () => {
    const stranger = member({ id: "stranger" })
    const order = Routing.make(
      ["a", "b", "c"].map((id) => member({ id })),
      {
        strategy: (candidates) => [
          { provider: stranger.provider, weight: 1, health: "healthy", latency: 0, inFlight: 0, price: 0 },
          ...candidates.filter(({ provider }) => provider.id === "c")
        ]
      }
    )

    assert.strictEqual(ids(order(request, "generate", 0)), "c a b")
  })

  it("keeps requests with the same key together, and spreads the keys", () => {
    const order = Routing.make(
      ["a", "b", "c", "d"].map((id) => member({ id })),
      { sticky: ({ scope }) => scope }
    )
    const counts: Record<string, number> = {}
    for (let key = 0; key < 400; key++) {
      const asked = LlmRequest.make({ prompt: "Hi", scope: `tenant ${key}` })
      const [first, ...others] = Object.keys(firsts(order, 5, asked))
      assert.deepStrictEqual(others, [])
      counts[first ?? ""] = (counts[first ?? ""] ?? 0) + 1
    }

    for (const id of ["a", "b", "c", "d"]) assert.isAbove(counts[id] ?? 0, 60)
  })

  it("moves only the keys of a step that is gone", () => {
    const sticky = ({ scope }: LlmRequest.LlmRequest) => scope
    const all = Routing.make(
      ["a", "b", "c", "d"].map((id) => member({ id })),
      { sticky }
    )
    const without = Routing.make(
      ["a", "b", "c"].map((id) => member({ id })),
      { sticky }
    )

    for (let key = 0; key < 200; key++) {
      const asked = LlmRequest.make({ prompt: "Hi", scope: `tenant ${key}` })
      const before = all(asked, "generate", 0)[0]?.id
      if (before !== "d") assert.strictEqual(without(asked, "generate", 0)[0]?.id, before)
    }
  })

  it("sends a key elsewhere when its step has more than its share to do, or is ill", () => {
    const sticky = () => "tenant"
    const [home = "", other = ""] = orderOf({ sticky }, { id: "a" }, { id: "b" }).split(" ")

    assert.strictEqual(orderOf({ sticky }, { id: home, inFlight: 12 }, { id: other, inFlight: 9 }), `${home} ${other}`)
    assert.strictEqual(orderOf({ sticky }, { id: home, inFlight: 20 }, { id: other, inFlight: 2 }), `${other} ${home}`)
    assert.strictEqual(orderOf({ sticky }, { id: home, health: "degraded" }, { id: other }), `${other} ${home}`)
  })

  it("uses the strategy for requests without a key", () => {
    const order = Routing.make([member({ id: "a" }), member({ id: "b" })], { sticky: ({ scope }) => scope })

    assert.deepStrictEqual(firsts(order, 10), { a: 5, b: 5 })
  })

  it("wants positive weights and a load of at least one", () => {
    assert.throws(() => Routing.make([member({ id: "a", weight: 0 })]), RangeError, 'weight of "a"')
    assert.throws(() => Routing.make([member({ id: "a" })], { maxLoad: 0.5 }), RangeError, "maxLoad")
  })
})

describe("A chain with equal priorities", () => {
  const answering = (id: string, ...script: ReadonlyArray<ScriptedProvider.Step>) =>
    ScriptedProvider.make({ id, script: script.length === 0 ? [ScriptedProvider.answer(id)] : script })

  it.effect("shares the load, and calls none of the equals a backup", () =>
    Effect.gen(function* () {
      const [a, b, c] = [yield* answering("a"), yield* answering("b"), yield* answering("c")]
      const chain = yield* Fallback.make([
        { provider: a, priority: 0, weight: 2 },
        { provider: b, priority: 0 },
        { provider: c, priority: 1 }
      ])

      const answers = yield* Effect.forEach(Array.from({ length: 30 }), () => chain.generate(request))

      assert.deepStrictEqual([yield* a.count, yield* b.count, yield* c.count], [20, 10, 0])
      assert.isTrue(answers.every(({ served }) => served.notice === undefined))
    })
  )

  it.effect("brings an equal back whose circuit may be probed, although the other one is well", () =>
    Effect.gen(function* () {
      const one = yield* ScriptedProvider.make({
        id: "one",
        script: [ScriptedProvider.fail("Network"), ScriptedProvider.answer("one is back")]
      })
      const other = yield* ScriptedProvider.make({ id: "other", script: [ScriptedProvider.answer("from the other")] })
      const service = yield* LlmResilience.make({
        policy: LlmResilience.standard({
          retry: "off",
          circuitBreaker: { trip: CircuitBreaker.consecutive(1), openFor: "10 seconds" }
        }),
        steps: [
          { provider: one, priority: 0 },
          { provider: other, priority: 0 }
        ]
      })
      const ask = Effect.map(service.generate(LlmRequest.make({ prompt: "Hi" })), (response) => response.text)
      yield* ask
      const open = yield* Effect.all([ask, ask, ask])
      yield* TestClock.adjust("10 seconds")
      const back = yield* Effect.all([ask, ask])

      assert.deepStrictEqual(open, ["from the other", "from the other", "from the other"])
      assert.include(back, "one is back")
    }).pipe(Effect.scoped)
  )

  it.effect("answers in the order in which it is written when a strategy or a key throws, and says so", () =>
    Effect.gen(function* () {
      const bug = (): never => {
        throw new Error("no scope")
      }
      for (const routing of [{ strategy: bug }, { sticky: bug }]) {
        const seen: Array<string> = []
        const hub = ResilienceEvent.makeHub()
        yield* hub.listen((event) => seen.push(event._tag))
        const steps = yield* Effect.forEach(["a", "b"], (id) =>
          Effect.map(ScriptedProvider.make({ id, script: [ScriptedProvider.answer(id)] }), (provider) => ({
            provider,
            priority: 0
          }))
        )
        const [first, second] = steps
        assert.isDefined(first)
        assert.isDefined(second)
        const chain = yield* Fallback.make([first, second], { routing }).pipe(
          Effect.provideService(ResilienceEvent.CurrentHub, hub)
        )

        assert.strictEqual((yield* chain.generate(request)).served.provider, "a")
        assert.include(seen, "DefectCaught")
      }
    })
  )

  it.effect("asks an equal before a backup, and only the backup is one", () =>
    Effect.gen(function* () {
      const down = ScriptedProvider.fail("Authentication")
      const providers = [yield* answering("a", down), yield* answering("b"), yield* answering("c")] as const
      const chain = yield* Fallback.make([
        { provider: providers[0], priority: 0 },
        { provider: providers[1], priority: 0 },
        { provider: providers[2], priority: 1 }
      ])
      assert.isUndefined((yield* chain.generate(request)).served.notice)
      yield* providers[1].setScript([down])

      const { served } = yield* chain.generate(request)

      assert.strictEqual(served.provider, "c")
      assert.strictEqual(served.notice?._tag, "BackupService")
      assert.isTrue(
        served.attempts.every((attempt) => attempt._tag === "Failed" && attempt.error instanceof ProviderError.APIError)
      )
    })
  )
})

describe("Routing by what was measured", () => {
  const slow = (id: string, ...millis: ReadonlyArray<number>) =>
    ScriptedProvider.make({
      id,
      script: millis.map((time) => ScriptedProvider.delay(time, ScriptedProvider.answer(id)))
    })

  const burst = Effect.fnUntraced(function* (chain: Pick<Provider.Provider, "generate">, calls: number) {
    const request = LlmRequest.make({ prompt: "Hi" })
    const all = yield* Effect.forkChild(
      Effect.forEach(Array.from({ length: calls }), () => chain.generate(request), { concurrency: calls })
    )
    yield* TestClock.adjust("12 seconds")
    yield* Fiber.join(all)
  })

  const equals = (a: Provider.Provider, b: Provider.Provider) =>
    [
      { provider: a, priority: 0 },
      { provider: b, priority: 0 }
    ] as const

  it.effect("asks a step again that was slow once", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([slow("a", 300), slow("b", 5000, 10)])
      const resilience = yield* LlmResilience.make({
        steps: equals(b, a),
        fallback: { routing: { strategy: "least-latency" } }
      })
      for (let call = 0; call < 100; call++) yield* burst(resilience, 1)

      assert.isAtLeast(yield* b.count, 50)
    })
  )

  it.effect("shares a burst among steps that nobody has measured", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([slow("a", 300), slow("b", 300)])
      const resilience = yield* LlmResilience.make({
        steps: equals(a, b),
        fallback: { routing: { strategy: "least-latency" } }
      })
      yield* burst(resilience, 100)

      assert.deepStrictEqual([yield* a.count, yield* b.count], [50, 50])
    })
  )

  it.effect("does not pour a burst into the one step that nobody has measured", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([slow("a", 300), slow("b", 300)])
      const guard = LlmResilience.standard()
      const [left, right] = [yield* guard(a), yield* guard(b)]
      const chain = yield* Fallback.make(equals(left, right), { routing: { strategy: "least-latency" } })
      yield* burst(left, 1)
      yield* burst(chain, 90)

      assert.isAtLeast(yield* a.count, 30)
    })
  )

  for (const strategy of ["least-busy", "least-latency"] as const) {
    it.effect(`compares a chain within the chain by ${strategy}, too`, () =>
      Effect.gen(function* () {
        const [a, b] = yield* Effect.all([slow("a", 300), slow("b", 300)])
        const guard = LlmResilience.standard()
        const inner = yield* Fallback.make([yield* guard(b)], { id: "inner" })
        const chain = yield* Fallback.make(equals(yield* guard(a), inner), { routing: { strategy } })
        yield* burst(chain, 100)

        assert.deepStrictEqual([yield* a.count, yield* b.count], [50, 50])
      })
    )
  }
})
